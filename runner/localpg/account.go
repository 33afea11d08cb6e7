package localpg

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// account is who runs the server: nil where that is ourselves. PostgreSQL refuses root, so root runs it as somebody else.
type account struct {
	name     string
	uid, gid uint32
	caps     []uintptr // what it needs to reach folders below one that only root may enter
}

// serverAccount picks the account and, where the folder lies below one that it may not enter (a checkout in root's home), the one
// capability that lets it pass. For its programs that is of no use: PostgreSQL looks for them by access(2), which no capability sways.
func serverAccount(program, folder string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	who, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if closed := closedTo(who, program); closed != "" {
		return nil, who.shutOut(closed)
	}
	closed := closedTo(who, folder)
	if closed == "" {
		return who, nil
	}
	if who.caps = passCapability(); who.caps == nil {
		return nil, who.shutOut(closed)
	}
	return who, nil
}

func (a *account) shutOut(closed string) error {
	return fmt.Errorf("PostgreSQL refuses to run as root, and user %s may not enter %s: chmod o+x it, work elsewhere, or run as another user", a.name, closed)
}

func unprivileged() (*account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: run as another user")
}

// closedTo returns the first folder on the way to path that others may not enter, or "". The last one is the server's own.
func closedTo(who *account, path string) string {
	for folder := filepath.Dir(path); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		if err == nil && info.Mode().Perm()&0o001 == 0 && !ownedBy(who, info) {
			return folder
		}
		if folder == filepath.Dir(folder) {
			return ""
		}
	}
}

// own gives a folder and all that is in it to the account.
func (a *account) own(folder string) error {
	if a == nil {
		return nil
	}
	return filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(a.uid), int(a.gid)) //nolint:gosec // a folder that only root may write into yet
	})
}
