package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/hub"
	"github.com/ballast-csi/ballast/fetcher/manifestfile"
)

type manifestFlags struct {
	hub       hub.Config
	tokenFile string
}

func manifestCommand() *cobra.Command {
	var f manifestFlags
	cmd := &cobra.Command{
		Use:   "manifest REPO[@REVISION]",
		Short: "Print what a repository is, as a file for agents that cannot ask the Hub",
		Long: "Asks the Hub which commit the revision is (main, if none is given) and which files it has, with\n" +
			"their digests, and prints that. Agents that have such files in a directory (manifests.dir) take\n" +
			"their word for what a repository is where the Hub cannot be asked; the bytes come from elsewhere.\n\n" +
			"    ballast manifest Qwen/Qwen3-0.6B > qwen.json\n" +
			"    ballast manifest datasets/org/name@v1.0 > data.json\n" +
			"    kubectl -n ballast create configmap ballast-manifests --from-file=qwen.json --from-file=data.json\n\n" +
			"A file of the repository takes about 300 bytes, and a ConfigMap holds 1 MiB: some 3,500 files in\n" +
			"all. For more use a directory on a volume (PVC or hostPath); one manifest there may have 64 MiB.\n\n" +
			"A private or gated repository needs a token: in the environment, HF_TOKEN, or in --token-file.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("want one REPO[@REVISION] (see %s --help)", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := f.manifest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.hub.Endpoint, "hub-endpoint", defaultConfig().Hub.Endpoint, "URL of the Hub; the default is $HF_ENDPOINT")
	flags.StringVar(&f.hub.CAFile, "hub-ca-file", "", "PEM file of certificates that are trusted beside the system's")
	flags.BoolVar(&f.hub.TokensOverHTTP, "tokens-over-http", false, "send the token to a Hub whose URL is http://, where anyone on the way can read it")
	flags.StringVar(&f.tokenFile, "token-file", "", "file of a Hub token; the default is $HF_TOKEN itself")
	return cmd
}

// manifest returns the whole file, or an error.
func (f manifestFlags) manifest(ctx context.Context, what string) ([]byte, error) {
	name, revision, given := strings.Cut(what, "@")
	if !given {
		revision = "main"
	}
	repo, repoErr := fetcher.ParseRepo(name)
	ref, refErr := fetcher.ParseRef(revision)
	if err := errors.Join(repoErr, refErr); err != nil {
		return nil, usageError{err}
	}
	token, err := f.token()
	if err != nil {
		return nil, usageError{err}
	}
	f.hub.UserAgent = userAgent()
	client, err := hub.New(f.hub)
	if err != nil {
		return nil, usageError{err}
	}
	defer client.CloseIdle()
	found, err := client.Resolve(ctx, repo, ref, token)
	if err != nil {
		return nil, err
	}
	m, err := client.Manifest(ctx, fetcher.Revision{Repo: repo, Commit: found.Commit}, token)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = manifestfile.Write(&text, ref, m)
	return text.Bytes(), err
}

func (f manifestFlags) token() (fetcher.Secret, error) {
	if f.tokenFile != "" {
		token, err := readToken(f.tokenFile)
		if err != nil {
			err = fmt.Errorf("--token-file: %w", err)
		}
		return token, err
	}
	token, err := fetcher.ParseSecret(os.Getenv("HF_TOKEN"))
	if err != nil {
		err = fmt.Errorf("HF_TOKEN: %w", err)
	}
	return token, err
}
