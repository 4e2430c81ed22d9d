package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func probeCommand() *cobra.Command {
	var socket, path string
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Ask a Ballast process on a unix socket whether it is well (for exec probes)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := overSocket(socket).Get("http://socket" + path)
			if err != nil {
				return fmt.Errorf("%s does not answer: %w", socket, err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s%s: %s: %s", socket, path, resp.Status, strings.TrimSpace(string(body)))
			}
			fmt.Fprint(cmd.OutOrStdout(), string(body))
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "socket", defaultCSIHTTP, "unix socket to ask")
	cmd.Flags().StringVar(&path, "path", "/readyz", "what to ask: /healthz, /readyz or /metrics")
	return cmd
}
