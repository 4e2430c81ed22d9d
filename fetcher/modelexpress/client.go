// Package modelexpress owns how a Model Express server is spoken to over gRPC: the bytes
// of a file (fetcher.Source), what a server of each release does not do, and what its
// errors mean.
//
// It must never know where bytes go, nor who asks. A server is no Authority: it names a
// commit by its own directory's name and no Digest at all, so nothing that it says of a
// Revision is ever passed on.
//
// Invariants:
//   - No credential of the Hub's is sent. The one token that is sent is the operator's
//     own, from Config.TokenFile.
//   - Each stream's first chunk names the commit that was asked for, or nothing of that
//     stream is used: releases before 0.6.0 ignore the revision and serve another.
//   - A reader gives a file's bytes in order, or an error; nothing of another file, and
//     no more than the Manifest says.
//   - A path in an answer is only compared, never used.
//   - Nothing that a server sends grows without bound: messages, chunks, updates, texts.
//   - The server is asked for a Revision once, whatever number of files is opened, and
//     that ends when nobody waits for it any more. Of trouble, only that a download takes
//     longer than Config.Wait is remembered, for as long.
//   - Every goroutine ends with the Object that it feeds, or by Close.
//
// The protocol is restated in modelexpresspb. What servers do is taken from
// modelexpress_server/src/services.rs and modelexpress_common/src/providers of
// github.com/ai-dynamo/modelexpress; modelexpresstest does the same for the tests.
package modelexpress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/ballast-csi/ballast/fetcher"
	"github.com/ballast-csi/ballast/fetcher/modelexpress/modelexpresspb"
)

const (
	defaultName    = "modelexpress"
	defaultWait    = 30 * time.Minute
	defaultStreams = 4

	// connectTimeout bounds connecting, and what is spent on an address that does not
	// answer. After a failure it is tried again within reconnect.
	connectTimeout = 5 * time.Second
	reconnect      = 3 * time.Second
	// A server is silent while it downloads. These find out that it is gone.
	pingAfter, pingTimeout = 30 * time.Second, 10 * time.Second
	idleTimeout            = 5 * time.Minute

	maxMessage = 16 << 20 // bytes; of a list, the longest
	// HTTP/2's windows, in bytes: its default of 64 KiB is one round trip each.
	streamWindow, connWindow = 4 << 20, 16 << 20
	readBuffer               = 256 << 10
)

// Config says which server to speak to and how.
type Config struct {
	// Name is the word for this Source in progress, events and metrics. Empty:
	// "modelexpress".
	Name string
	// URL is what MODEL_EXPRESS_URL holds: host:port or http://host:port, in plain text,
	// as the server itself has no TLS; https://host:port for a proxy that has. Without a
	// port it is 8001, or 443 for https. It names no path, query or user. Its host is
	// connected to directly, whatever HTTPS_PROXY says.
	URL string
	// TokenFile holds a bearer token for the server, such as a projected service account
	// token. It is sent over plain text too: there is no other way to most servers, and
	// such a token is good for their audience alone. Empty, or no such file: none is sent.
	TokenFile string
	// Wait is how long the server may take to download a model. 0: 30 minutes.
	Wait time.Duration
	// Streams is how many files are streamed at once. 0: 4. Each costs the server up to
	// 16 MiB of memory.
	Streams int
	// UserAgent is sent with every request. Empty: "ballast".
	UserAgent string
	Log       *zap.Logger // nil: none
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	cfg    Config
	server target
	log    *zap.Logger
	conn   *grpc.ClientConn // one for all calls: behind one address may be servers with caches of their own
	rpc    modelexpresspb.ModelServiceClient
	token  *token // nil: none is configured
	places *places
	limits limits

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	starting sync.Mutex // guards closed, and work against Close
	closed   bool

	mu        sync.Mutex // guards all below; starting may be taken with it held
	inquiries map[fetcher.Revision]*inquiry
	tours     map[fetcher.Revision]*tour
	overdue   map[fetcher.Revision]time.Time // downloads that took too long, and until when they are not waited for
	wholeTill time.Time                      // until when the server is known to ignore selectors
}

// limits are how long an answer is waited for, and how long it is believed.
type limits struct {
	answer time.Duration // for a list, a first update, a first chunk: the server resolves a revision for up to 30 s before
	keep   time.Duration // what was learnt of a Revision
	whole  time.Duration // that the server ignores selectors
	unread time.Duration // that a file holds up a stream of all files
}

var _ fetcher.Source = (*Client)(nil)

// New checks cfg and returns a Client; it asks nothing of the network.
func New(cfg Config) (*Client, error) {
	server, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Wait < 0 || cfg.Streams < 0 {
		return nil, fmt.Errorf("model express: wait %s, streams %d: neither may be negative", cfg.Wait, cfg.Streams)
	}
	c := &Client{
		cfg: withDefaults(cfg), server: server,
		limits:    limits{answer: time.Minute, keep: 30 * time.Second, whole: 10 * time.Minute, unread: time.Minute},
		inquiries: map[fetcher.Revision]*inquiry{}, tours: map[fetcher.Revision]*tour{},
		overdue: map[fetcher.Revision]time.Time{},
	}
	c.log, c.places = c.cfg.Log, newPlaces(c.cfg.Streams)
	options := dialOptions(server, c.cfg.UserAgent)
	if cfg.TokenFile != "" {
		c.token = newToken(cfg.TokenFile, c.log)
		options = append(options, grpc.WithPerRPCCredentials(c.token))
	}
	if c.conn, err = grpc.NewClient("passthrough:///"+server.address, options...); err != nil {
		return nil, fmt.Errorf("model express at %s: %w", server, err)
	}
	c.rpc = modelexpresspb.NewModelServiceClient(c.conn)
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Name == "" {
		cfg.Name = defaultName
	}
	if cfg.Wait == 0 {
		cfg.Wait = defaultWait
	}
	if cfg.Streams == 0 {
		cfg.Streams = defaultStreams
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "ballast"
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return cfg
}

// dialOptions has the name looked up anew at each connect, and directly: gRPC's own
// resolver asks again after 30 s at the earliest, and goes through the Hub's proxy.
func dialOptions(server target, userAgent string) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if server.tls {
		creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	dialer := net.Dialer{Timeout: connectTimeout}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: connectTimeout,
			Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnect},
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent(userAgent),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(readBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
}

// Name returns Config.Name.
func (c *Client) Name() string { return c.cfg.Name }

// Close ends all that is under way and waits for it.
func (c *Client) Close() error {
	c.starting.Lock()
	c.closed = true
	c.starting.Unlock()
	c.end()
	err := c.conn.Close()
	c.work.Wait()
	return err
}

var errClosed = errors.New("model express: the client is closed")

// start runs f in a goroutine that Close waits for.
func (c *Client) start(f func()) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	if c.closed {
		return errClosed
	}
	c.work.Go(f)
	return nil
}

// Open has the server download the model, if it must, and begins to stream f. It waits for
// a place among Config.Streams as long as ctx lets it. It has no use for a credential.
func (c *Client) Open(ctx context.Context, rev fetcher.Revision, f fetcher.File, _ fetcher.Secret) (fetcher.Object, error) {
	what := fmt.Sprintf("open %s of %s at %s", f.Path, rev, c.server)
	if rev.Repo.Kind() != fetcher.Model {
		return nil, fmt.Errorf("%s: %w: it serves no data sets", what, fetcher.ErrAbsent)
	}
	if !served(f.Path) {
		return nil, fmt.Errorf("%s: %w: it serves neither sub-directories, dotfiles, README.md nor images", what, fetcher.ErrAbsent)
	}
	for attempt := 0; ; attempt++ {
		asked, err := c.ask(ctx, rev)
		if err != nil {
			return nil, err
		}
		if err := asked.has(f); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		o := &object{client: c, rev: rev, file: f}
		err = o.begin(ctx, patient)
		if err == nil {
			return o, nil
		}
		if !errors.Is(err, errNotFound) || attempt > 0 {
			return nil, err
		}
	}
}
