/* The three calls in which PostgreSQL waits, straight to the kernel. libfaketime has them as well, to stretch their timeouts, and tells
   the true time for as long as one lasts; so also to a signal handler, and to what it forks. The postmaster of PostgreSQL 15 starts its
   background workers, pg_cron among them, in a signal handler, and lock_timeout ends a wait in one. Loaded before libfaketime. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct timespec *from_ms(int ms, struct timespec *t) {
  if (ms < 0) return NULL;
  t->tv_sec = ms / 1000;
  t->tv_nsec = ms % 1000 * 1000000L;
  return t;
}

int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout) {
  struct timespec t;
  if (timeout) {
    t.tv_sec = timeout->tv_sec;
    t.tv_nsec = timeout->tv_usec * 1000L;
  }
  return (int)syscall(SYS_pselect6, n, r, w, e, timeout ? &t : NULL, NULL);
}

int poll(struct pollfd *fds, nfds_t n, int timeout) {
  struct timespec t;
  return (int)syscall(SYS_ppoll, fds, n, from_ms(timeout, &t), NULL, 0);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout) {
  return (int)syscall(SYS_epoll_pwait, fd, events, n, timeout, NULL, 0);
}
