package kvcache

// list is a doubly linked list through the pages, from the least to the most
// recently used one.
type list struct {
	first, last int32 // −1 in an empty list
	len         int
}

func newList() list { return list{first: -1, last: -1} }

// push appends a page.
func (l *list) push(pages []page, p int32) {
	pages[p].prev, pages[p].next = l.last, -1
	if l.last < 0 {
		l.first = p
	} else {
		pages[l.last].next = p
	}
	l.last = p
	l.len++
}

// remove takes a page out.
func (l *list) remove(pages []page, p int32) {
	prev, next := pages[p].prev, pages[p].next
	if prev < 0 {
		l.first = next
	} else {
		pages[prev].next = next
	}
	if next < 0 {
		l.last = prev
	} else {
		pages[next].prev = prev
	}
	l.len--
}
