package telemetry

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-moe/tandem/internal/docs"
)

// TestPageMetrics holds docs/metrics.md to what a scrape has where there is
// something of everything to count.
func TestPageMetrics(t *testing.T) {
	m := New("gopher", engineAtWork())
	docs.Hold(t, "..", "metrics.md", "metrics", metricsPage(scrape(t, m)))
}

var (
	helpLine = regexp.MustCompile(`^# HELP (\S+) (.*)$`)
	typeLine = regexp.MustCompile(`^# TYPE \S+ (\S+)$`)
	label    = regexp.MustCompile(`[{,](\w+)="`)
)

// family is a metric: its name, type, labels beside the model's name, and help.
type family struct {
	name, kind, help string
	labels           []string
}

// metricsPage lists the metrics of a scrape.
func metricsPage(scraped string) string {
	var rows [][]string
	for _, f := range familiesOf(scraped) {
		rows = append(rows, []string{"`" + f.name + "`", f.kind, strings.Join(f.labels, ", "), f.help})
	}
	return docs.Table([]string{"metric", "type", "labels", "what it counts"}, rows)
}

func familiesOf(scraped string) (all []*family) {
	for line := range strings.Lines(scraped) {
		line = strings.TrimSuffix(line, "\n")
		if m := helpLine.FindStringSubmatch(line); m != nil {
			all = append(all, &family{name: m[1], help: m[2]})
			continue
		}
		f := all[len(all)-1]
		if m := typeLine.FindStringSubmatch(line); m != nil {
			f.kind = m[1]
			continue
		}
		for _, m := range label.FindAllStringSubmatch(line, -1) {
			if name := "`" + m[1] + "`"; m[1] != "model_name" && m[1] != "le" && !slices.Contains(f.labels, name) {
				f.labels = append(f.labels, name)
			}
		}
	}
	return all
}
