package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgtick/pgtick/runner/jobs"
)

// Somebody waits with a finger on the key.
const completionTimeout = time.Second

// named completes names of a kind out of the database. Where there is none, or it is slow, there is nothing to complete, and nothing is said.
func named(kind jobs.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begin string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, end := context.WithTimeout(context.WithoutCancel(cmd.Context()), completionTimeout)
		defer end()
		names, err := namesIn(ctx, cmd, kind, begin)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// firstNamed is the same for a command's only argument.
func firstNamed(kind jobs.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begin string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return named(kind)(cmd, args, begin)
	}
}

func namesIn(ctx context.Context, cmd *cobra.Command, kind jobs.Kind, begin string) ([]string, error) {
	cfg, err := load(cmd, "database-url")
	if err != nil {
		return nil, err
	}
	cfg.Database.ConnectTimeout, cfg.Database.DefaultQueryExecMode = completionTimeout, pgx.QueryExecModeExec
	conn, err := connector(cfg.Database)(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return jobs.Names(ctx, conn, kind, begin)
}

// completeFlag completes the values of a flag that the command has.
func completeFlag(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a flag that there is not
	}
}

// completeStates completes the states that a command takes.
func completeStates(cmd *cobra.Command, states []string) {
	completeFlag(cmd, "state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
}

// wordsOfBash stands in for the one function that cobra's script wants of the package bash-completion, where that is not installed. Bash cuts
// words at = and :, so what follows another piece without a blank belongs to it.
const wordsOfBash = `if ! declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
_get_comp_words_by_ref()
{
    local i piece before rest=$COMP_LINE
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        piece=${COMP_WORDS[i]}
        if [[ -z $piece ]]; then
            before=
            [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && before=' '
        else
            before=${rest%%"$piece"*}
            rest=${rest#"$before$piece"}
        fi
        if [[ $i -gt 0 && -z $before ]]; then
            words[${#words[@]}-1]+=$piece
        else
            words+=("$piece")
        fi
    done
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    [[ $cword -gt 0 ]] && prev=${words[cword-1]}
    return 0
}
fi
`

// finishHelpers puts right what cobra adds by itself: "completion" and "help" refuse what they do not know, as all commands do, and the
// script for bash stands alone.
func finishHelpers(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = knownTopic
		case "completion":
			cmd.Short = "Print the completion script for a shell"
			cmd.Long = `Print the script that completes commands, flags, and the names of queues, tasks and schedules. Names come from the database that
DATABASE_URL names; without one, or when it takes longer than a second, there are none.`
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			standAlone(cmd)
		}
	}
}

func knownTopic(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unknown command %q for %q%s", rest[0], found.CommandPath(), perhaps(found, rest))
	}
	return err
}

func standAlone(completion *cobra.Command) {
	for _, shell := range completion.Commands() {
		if shell.Name() != "bash" {
			continue
		}
		shell.Long = strings.Replace(shell.Long, `This script depends on the 'bash-completion' package.
If it is not installed already, you can install it via your OS's package manager.

`, "", 1)
		shell.RunE = func(cmd *cobra.Command, _ []string) error {
			bare, err := cmd.Flags().GetBool("no-descriptions")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), wordsOfBash); err != nil {
				return err
			}
			return cmd.Root().GenBashCompletionV2(cmd.OutOrStdout(), !bare)
		}
	}
}
