// Package secondlook is a client of the secondlook labelling service: the generated calls of each
// service, with deadlines, tokens, TLS, retries and typed errors, and what streams need beyond
// them: answers that survive a broken line, snapshots and models checked by their hashes.
package secondlook

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "secondlook/v1"
)

// Options say how a client shows who it is, and knows the server. Empty texts are taken from
// SECONDLOOK_TOKEN, SECONDLOOK_CA, SECONDLOOK_CLIENT_CERT and SECONDLOOK_CLIENT_KEY.
type Options struct {
	Token          string        // secret of a token of the server
	CA, Cert, Key  string        // PEM files: whom to trust, and the client's own certificate
	PlainToken     bool          // send the token to another machine without encryption
	Timeout        time.Duration // of a unary call whose context has no deadline; 0: one minute
	UnavailableFor time.Duration // how long a server that does not answer is tried; 0: ten seconds
}

// Client has the calls of every service. It is safe for concurrent use, and connects at the first.
type Client struct {
	pb.LabelingServiceClient
	pb.JobServiceClient
	pb.DatasetServiceClient
	pb.ModelServiceClient
	pb.ReviewServiceClient
	pb.BrowseServiceClient
	pb.SegmentationServiceClient
	*grpc.ClientConn
	options Options
}

// Dial prepares a client of the server at "host:port", or "tls://host:port" for an encrypted line.
func Dial(address string, options Options) (*Client, error) {
	options.Timeout = cmp.Or(options.Timeout, time.Minute)
	options.UnavailableFor = cmp.Or(options.UnavailableFor, 10*time.Second)
	options.Token = strings.TrimSpace(cmp.Or(options.Token, os.Getenv("SECONDLOOK_TOKEN")))
	target, encrypted := strings.CutPrefix(address, "tls://")
	transport := insecure.NewCredentials()
	if encrypted || options.CA != "" || options.Cert != "" {
		config, err := options.tls()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	} else if options.Token != "" && !options.PlainToken && !isThisMachine(target) {
		return nil, fmt.Errorf("the token would travel to %s unencrypted; use tls://%[1]s (with CA for a "+
			"certificate of your own), or set PlainToken", target)
	}
	line, err := grpc.NewClient(target, grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(token(options.Token)), grpc.WithUnaryInterceptor(options.unary),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	return &Client{
		pb.NewLabelingServiceClient(line), pb.NewJobServiceClient(line), pb.NewDatasetServiceClient(line),
		pb.NewModelServiceClient(line), pb.NewReviewServiceClient(line), pb.NewBrowseServiceClient(line),
		pb.NewSegmentationServiceClient(line), line, options,
	}, err
}

func (options Options) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := cmp.Or(options.CA, os.Getenv("SECONDLOOK_CA")); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate (PEM)", file)
		}
	}
	if file := cmp.Or(options.Cert, os.Getenv("SECONDLOOK_CLIENT_CERT")); file != "" {
		own, err := tls.LoadX509KeyPair(file, cmp.Or(options.Key, os.Getenv("SECONDLOOK_CLIENT_KEY")))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

func isThisMachine(target string) bool {
	host, _, _ := net.SplitHostPort(target)
	return strings.HasPrefix(target, "unix:") || host == "localhost" || net.ParseIP(host).IsLoopback()
}

// token goes with each call. Dial has seen to it that nobody on the way can read it.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if t == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (t token) RequireTransportSecurity() bool { return false }
