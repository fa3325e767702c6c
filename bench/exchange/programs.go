package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/internal/clip"
)

// errMissing: a program of others that is not installed.
var errMissing = errors.New("not installed")

// find looks for programs in the path.
func find(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s: %w", name, errMissing)
		}
	}
	return nil
}

// output is what a program prints, within a time.
func output(ctx context.Context, timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // a compiler's children keep its output open
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}

// The module bench/peers has the programs that need gRPC or a library that
// plots. They are programs of their own so that the server's binary links
// neither.
const (
	peersModule    = "github.com/tandem-moe/tandem/bench/peers"
	peersFolder    = "bench/peers"
	grpcProgram    = "tandem-bench-grpc"
	figuresProgram = "tandem-bench-figures"
	// peerTimeout bounds a build, the first of which downloads modules.
	peerTimeout = 5 * time.Minute
)

// peer returns the path of a program of bench/peers. Where the working directory
// is in a checkout, go builds the program into dir, so that it is of the
// checkout's source. Elsewhere it is the one in PATH. A program that is neither
// there nor can be built is errMissing, with what to do about it.
func peer(ctx context.Context, dir, program string) (string, error) {
	source, err := peersSource()
	if err == nil {
		err = find("go")
	}
	if err == nil {
		return buildPeer(ctx, source, dir, program)
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s: %w in PATH, and not built: %w; in a checkout of Tandem \"go install -C %s ./...\" installs it",
		program, errMissing, err, peersFolder)
}

// buildPeer compiles a program. A failed build is errMissing: where modules
// cannot be downloaded, all else can be measured.
func buildPeer(ctx context.Context, source, dir, program string) (string, error) {
	path := filepath.Join(dir, program)
	_, err := output(ctx, peerTimeout, "env", "CGO_ENABLED=0", "GOWORK=off",
		"go", "build", "-C", source, "-buildvcs=false", "-o", path, "./"+program)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, errMissing, clip.Text(strings.Join(strings.Fields(err.Error()), " "), 400))
	}
	return path, nil
}

// peersSource is the folder of bench/peers in the checkout that the working
// directory is in.
func peersSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		folder := filepath.Join(dir, filepath.FromSlash(peersFolder))
		if moduleName(filepath.Join(folder, "go.mod")) == peersModule {
			return folder, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the working directory is in no checkout of Tandem")
		}
		dir = parent
	}
}

// moduleName is what a go.mod file names its module; empty where there is none.
func moduleName(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}
