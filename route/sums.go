package route

// Sums says which results each of a number of rows adds up, in order: row r
// those of Results[Offsets[r]:Offsets[r+1]], which are places in a matrix. It
// keeps its memory between fillings.
type Sums struct {
	Results, Offsets []int32

	next   []int32 // by row: where its next result comes
	rank   []int32 // by result
	places []int32
}

// ByChoice sums all results of rows that chose topK experts each, best first;
// the result of choice i is at place i.
func ByChoice(rows, topK int) *Sums {
	s := &Sums{Results: make([]int32, rows*topK), Offsets: make([]int32, rows+1)}
	for i := range s.Results {
		s.Results[i] = int32(i)
	}
	for r := range s.Offsets {
		s.Offsets[r] = int32(r * topK)
	}
	return s
}

// First is the lists of the first n rows.
func (s *Sums) First(n int) (results, offsets []int32) {
	return s.Results[:s.Offsets[n]], s.Offsets[:n+1]
}

// ByNode fills s with the sums of a micro-batch's rows over nodes, each of which
// returns one result for every row of its packet, in the order of the nodes. The
// results lie packet after packet.
func (s *Sums) ByNode(packets []Packet, rows int) {
	s.begin(rows)
	for _, p := range packets {
		s.count(0, p.Rows)
	}
	s.place()
	result := int32(0)
	for node, p := range packets {
		for _, r := range p.Rows {
			s.add(r, int32(node), result)
			result++
		}
	}
}

// ByRow fills s with the sums of the messages' rows, message after message, over
// their results on this node, best expert first. g is the messages' grouping.
func (s *Sums) ByRow(messages []Pairs, g *Grouping) {
	rows := 0
	for _, p := range messages {
		rows += p.Rows
	}
	s.begin(rows)
	first := int32(0)
	for _, p := range messages {
		s.count(first, p.Row)
		first += int32(p.Rows)
	}
	s.place()
	first = 0
	for m, p := range messages {
		for i, r := range p.Row {
			s.add(first+r, p.Place[i], g.Dst[m][i])
		}
		first += int32(p.Rows)
	}
}

// Places returns where the receiver wants the sums that ByRow has listed, in the order
// of the rows: the place of each row's best result on this node.
func (s *Sums) Places() []int32 {
	s.places = grow(s.places, len(s.Offsets)-1)
	for r := range s.places {
		s.places[r] = s.rank[s.Offsets[r]]
	}
	return s.places
}

func (s *Sums) begin(rows int) {
	s.Offsets = grow(s.Offsets, rows+1)
	clear(s.Offsets)
}

// count says that there will be a result for each of the rows, which are counted
// from first.
func (s *Sums) count(first int32, rows []int32) {
	for _, r := range rows {
		s.Offsets[first+r+1]++
	}
}

// place makes room for the results that were counted.
func (s *Sums) place() {
	for r := 1; r < len(s.Offsets); r++ {
		s.Offsets[r] += s.Offsets[r-1]
	}
	rows := len(s.Offsets) - 1
	n := int(s.Offsets[rows])
	s.Results, s.rank, s.next = grow(s.Results, n), grow(s.rank, n), grow(s.next, rows)
	copy(s.next, s.Offsets)
}

// add inserts a result by its rank among those of its row: there are few.
func (s *Sums) add(row, rank, result int32) {
	i := s.next[row]
	s.next[row]++
	for ; i > s.Offsets[row] && s.rank[i-1] > rank; i-- {
		s.Results[i], s.rank[i] = s.Results[i-1], s.rank[i-1]
	}
	s.Results[i], s.rank[i] = result, rank
}
