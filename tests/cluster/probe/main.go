// Command probe is what the tests' own pods run: a server that says who it is, and clients that say what a
// pod can reach. Each client prints one line and ends with 0, or with 1 and the error.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	usage = `usage: probe serve ADDRESS     answer every HTTP request with this pod's name
       probe files ADDRESS     serve /files over HTTPS, with the certificate in /tls
       probe get URL           print the body of the answer
       probe connect ADDRESS   open a TCP connection
       probe resolve NAME      print the addresses of a name, sorted
       probe read FILE         print a file
`
	secondsMax = 5
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
	return "", http.ListenAndServeTLS(address, "/tls/tls.crt", "/tls/tls.key", nil)
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
