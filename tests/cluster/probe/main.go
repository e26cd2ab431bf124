// Command probe is what the tests' own pods run: a server that says who it is, and clients that say what a
// pod can reach. Each client prints one line and ends with 0, or with 1 and the error.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	usage = `usage: probe serve ADDRESS     answer every HTTP request with this pod's name
       probe files ADDRESS     serve /files over HTTPS, with the certificate in /tls; and, as servers do that are out
                               of order, /401/FILE, /half/FILE, /cut/FILE and /slow/FILE
       probe get URL           print the body of the answer
       probe connect ADDRESS   open a TCP connection
       probe resolve NAME      print the addresses of a name, sorted
       probe read FILE         print a file
`
	secondsMax = 5
	// Of all answers below /slow/ together.
	slowBytesPerSecond, slowPieceBytes = 6_000_000, 1 << 14
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	does := map[string]func(string) (string, error){
		"serve": serve, "files": files, "get": get, "connect": connect, "resolve": resolve, "read": read,
	}[os.Args[1]]
	if does == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	answer, err := does(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

func serve(address string) (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(answer, name) })
	return "", http.ListenAndServe(address, nil)
}

func files(address string) (string, error) {
	http.Handle("/", http.FileServer(http.Dir("/files")))
	http.HandleFunc("/401/", func(answer http.ResponseWriter, _ *http.Request) { answer.WriteHeader(http.StatusUnauthorized) })
	// As a file that was not uploaded to its end.
	http.Handle("/half/", disturbed(func(file *os.File, size int64) io.ReadSeeker {
		return io.NewSectionReader(file, 0, size/2)
	}))
	// Every answer breaks off where the second half begins.
	http.Handle("/cut/", disturbed(func(file *os.File, size int64) io.ReadSeeker { return &cut{file, size / 2} }))
	pace := time.NewTicker(slowPieceBytes * time.Second / slowBytesPerSecond)
	http.Handle("/slow/", disturbed(func(file *os.File, _ int64) io.ReadSeeker { return &slow{file, pace.C} }))
	return "", http.ListenAndServeTLS(address, "/tls/tls.crt", "/tls/tls.key", nil)
}

// disturbed serves what `through` makes of a file that is named behind the first part of the path.
func disturbed(through func(*os.File, int64) io.ReadSeeker) http.Handler {
	return http.HandlerFunc(func(answer http.ResponseWriter, question *http.Request) {
		file, err := os.Open("/files/" + path.Base(question.URL.Path))
		if err != nil {
			http.NotFound(answer, question)
			return
		}
		defer file.Close()
		about, err := file.Stat()
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		http.ServeContent(answer, question, "", about.ModTime(), through(file, about.Size()))
	})
}

// cut is a file that cannot be read from `end` on, though it says how long it is.
type cut struct {
	*os.File
	end int64
}

func (c *cut) Read(into []byte) (int, error) {
	at, err := c.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if at >= c.end {
		return 0, io.ErrUnexpectedEOF
	}
	return c.File.Read(into[:min(int64(len(into)), c.end-at)])
}

// slow is a file of which a piece may be read at each tick.
type slow struct {
	*os.File
	ticks <-chan time.Time
}

func (s *slow) Read(into []byte) (int, error) {
	<-s.ticks
	return s.File.Read(into[:min(len(into), slowPieceBytes)])
}

func get(url string) (string, error) {
	client := http.Client{Timeout: secondsMax * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), err
}

func connect(address string) (string, error) {
	connection, err := net.DialTimeout("tcp", address, secondsMax*time.Second)
	if err != nil {
		return "", err
	}
	return "connected", connection.Close()
}

func resolve(name string) (string, error) {
	addresses, err := net.LookupHost(name)
	slices.Sort(addresses)
	return strings.Join(addresses, " "), err
}

func read(file string) (string, error) {
	text, err := os.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}
