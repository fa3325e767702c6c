package tandemv1

import (
	"fmt"
	"math"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// LimitError is a message with a field outside of its limits.
type LimitError struct {
	// Field is the message's name and the field's: "Offer.epoch". Value is what it
	// holds, or how many bytes or entries.
	Field, Value string
	Least, Most  float64
	Reason       string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s is %s, want %s to %s (%s)", e.Field, e.Value, number(e.Least), number(e.Most), e.Reason)
}

// number writes whole numbers as such.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// byField is the table of limits, by the field's name.
var byField = func() map[string]limit {
	m := make(map[string]limit, len(limits))
	for _, l := range limits {
		m[l.field] = l
	}
	return m
}()

// rule is the limits of a field and of its entries.
type rule struct {
	field        protoreflect.FieldDescriptor
	whole, entry *limit
}

// rules are those of each kind of message, in the order of the fields. The
// messages' descriptions are there once the package has been initialized.
var rules = sync.OnceValue(func() map[protoreflect.FullName][]rule {
	m := map[protoreflect.FullName][]rule{}
	for _, file := range []protoreflect.FileDescriptor{File_tandem_v1_membership_proto, File_tandem_v1_work_proto} {
		for i := range file.Messages().Len() {
			d := file.Messages().Get(i)
			m[d.FullName()] = rulesOf(d)
		}
	}
	return m
})

func rulesOf(d protoreflect.MessageDescriptor) (all []rule) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		r := rule{field: f}
		name := fieldName(f)
		if l, ok := byField[name]; ok {
			r.whole = &l
		}
		if l, ok := byField[name+"[]"]; ok {
			r.entry = &l
		}
		all = append(all, r)
	}
	return all
}

// fieldName is a field's in the table: "Hello.addr".
func fieldName(f protoreflect.FieldDescriptor) string {
	return string(f.Parent().Name()) + "." + string(f.Name())
}

// Check holds a message, and those in it, against the table of limits. The error is
// a *LimitError.
func Check(m proto.Message) error { return check(m.ProtoReflect()) }

func check(m protoreflect.Message) error {
	for _, r := range rules()[m.Descriptor().FullName()] {
		if r.field.HasPresence() && !m.Has(r.field) {
			continue // an absent message, or an absent optional number
		}
		if err := r.check(m.Get(r.field)); err != nil {
			return err
		}
	}
	return nil
}

// check holds a field's value against its rule.
func (r rule) check(v protoreflect.Value) error {
	switch {
	case r.field.IsMap():
		return r.whole.allows(r.field, float64(v.Map().Len()))
	case r.field.IsList():
		return r.checkList(v.List())
	}
	return checkOne(r.field, r.whole, v)
}

func (r rule) checkList(list protoreflect.List) error {
	if err := r.whole.allows(r.field, float64(list.Len())); err != nil {
		return err
	}
	for i := range list.Len() {
		if err := checkOne(r.field, r.entry, list.Get(i)); err != nil {
			return err
		}
	}
	return nil
}

// checkOne holds one value against its limit.
func checkOne(f protoreflect.FieldDescriptor, l *limit, v protoreflect.Value) error {
	switch v := v.Interface().(type) {
	case protoreflect.Message:
		return check(v)
	case bool:
		return nil
	case string:
		return l.allows(f, float64(len(v)))
	case []byte:
		return l.allows(f, float64(len(v)))
	case protoreflect.EnumNumber:
		return l.allows(f, float64(v))
	case int32:
		return l.allows(f, float64(v))
	case int64:
		return l.allows(f, float64(v))
	case uint32:
		return l.allows(f, float64(v))
	case uint64:
		return l.allows(f, float64(v))
	case float32:
		return l.allows(f, float64(v))
	case float64:
		return l.allows(f, v)
	}
	return l.allows(f, math.NaN()) // of a type that no message has
}

// allows says whether a field may have a value; one that the table does not list
// may have none. NaN is outside of all limits.
func (l *limit) allows(f protoreflect.FieldDescriptor, v float64) error {
	if l == nil {
		return &LimitError{Field: fieldName(f), Value: number(v), Reason: "the table of limits does not list it"}
	}
	if v >= l.least && v <= l.most {
		return nil
	}
	return &LimitError{Field: l.field, Value: number(v), Least: l.least, Most: l.most, Reason: l.reason}
}
