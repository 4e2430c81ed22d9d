package modelexpress

import (
	"path"
	"slices"
	"strings"

	"github.com/ballast-csi/ballast/fetcher"
)

// images are the endings that the server's downloader takes for an image
// (modelexpress_common/src/providers.rs).
var images = []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".ico", ".bmp", ".tiff", ".tif"}

// served reports whether the server's downloader may bring a file of this path at all
// (modelexpress_common/src/providers/huggingface.rs, download_at_revision).
func served(p fetcher.Path) bool {
	name := p.String()
	return !strings.Contains(name, "/") && !strings.HasPrefix(name, ".") && name != "README.md" &&
		!slices.Contains(images, strings.ToLower(path.Ext(name)))
}
