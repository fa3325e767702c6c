package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/tandem-moe/tandem/certs"
)

// CertsCmd makes and shows the certificates of a cluster.
type CertsCmd struct {
	Init  CertsInitCmd  `cmd:"" help:"Make a certificate authority for a cluster, valid for ten years."`
	Issue CertsIssueCmd `cmd:"" help:"Issue a certificate to a member of the cluster: a node or the front end."`
	Show  CertsShowCmd  `cmd:"" help:"List certificates and how long they are valid; fail where one is not."`
}

// Help is the end of the command's help.
func (*CertsCmd) Help() string {
	return `On one machine, which keeps the authority's key:

    tandem certs init
    tandem certs issue --name front
    tandem certs issue --name node-1

Copy the folder of a member, such as certs/node-1, to its machine, and name it
there by --tls; the members must be able to read their key, and nobody else:

    tandem serve --control 10.0.0.1:7000 --tls certs/front
    tandem node  --join 10.0.0.1:7000 --role expert --tls certs/node-1

Before a certificate expires, issue another with --force and copy it over the old
one: processes read it again, and nothing restarts. To change the authority, give
all members a ca.crt with both and restart them; then certificates of the new one;
then a ca.crt with the new one alone, and restart them.`
}

// folderFlag says where certificates lie.
type folderFlag struct {
	Dir certs.Folder `help:"Folder of the authority: ca.crt and ca.key, and a folder for each member." default:"certs" placeholder:"DIR"`
}

// CertsInitCmd makes an authority.
type CertsInitCmd struct {
	folderFlag
	Force bool `help:"Replace an authority that is there. Members that it knows are unknown to the new one."`
}

// Run makes the authority.
func (c *CertsInitCmd) Run() error {
	a, err := c.Dir.Init(time.Now(), c.Force)
	if err != nil {
		return hintForce(err)
	}
	fmt.Printf("%s: %s, until %s\nKeep %s secret: whoever has it can join the cluster.\n",
		c.Dir.CertFile(), a.Cert.Subject.CommonName, day(a.Cert.NotAfter), c.Dir.KeyFile())
	return nil
}

// CertsIssueCmd issues a member's certificate.
type CertsIssueCmd struct {
	folderFlag
	Name  string   `help:"The member's name, which becomes its folder's. One name may serve several members, with the same files." required:"" placeholder:"NAME"`
	Host  []string `help:"DNS name or IP address that the certificate is for, too. Members need none for each other." placeholder:"HOST"`
	Days  count    `help:"Days of validity; no longer than the authority's." default:"365"`
	Force bool     `help:"Replace the member's certificate and key."`
}

// Run issues the certificate.
func (c *CertsIssueCmd) Run() error {
	now := time.Now()
	files, err := c.Dir.Issue(certs.Request{Name: c.Name, Hosts: c.Host, NotAfter: now.AddDate(0, 0, int(c.Days))}, now,
		c.Force)
	if err != nil {
		return hintForce(err)
	}
	i, err := certs.Load(files, now)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %s and %s: %s, until %s\n", files.CA, files.Cert, files.Key, i.Leaf().Subject.CommonName,
		day(i.Leaf().NotAfter))
	return nil
}

// hintForce says how files that are there are replaced.
func hintForce(err error) error {
	if errors.Is(err, certs.ErrExists) {
		return fmt.Errorf("%w: --force replaces it", err)
	}
	return err
}

// CertsShowCmd lists certificates.
type CertsShowCmd struct {
	folderFlag
}

// Run lists them.
func (c *CertsShowCmd) Run() error {
	now := time.Now()
	list, err := c.Dir.List(now)
	if err != nil {
		return err
	}
	var rows []table.Row
	var bad []error
	for _, e := range list {
		if e.Err != nil {
			bad = append(bad, e.Err)
		}
		if e.Cert != nil {
			x := e.Cert
			rows = append(rows, table.Row{e.File, x.Subject.CommonName, x.Issuer.CommonName, hosts(e), day(x.NotAfter),
				certs.Remaining(x, now)})
		}
	}
	printTable(os.Stdout, width(os.Stdout), table.Row{"file", "name", "signed by", "for", "until", "remains"}, rows)
	return errors.Join(bad...)
}

// hosts are what a certificate is for.
func hosts(e certs.Entry) string {
	names := append([]string{}, e.Cert.DNSNames...)
	for _, ip := range e.Cert.IPAddresses {
		names = append(names, ip.String())
	}
	return strings.Join(names, " ")
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
