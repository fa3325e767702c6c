//go:build ucx

#include "shim.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/log_def.h>

// Before each message stands, in the header of the active message:
//
//	key of the receiver's connection (8)
//	bytes of the body (8), bytes of the header (4), 1 where it follows here (4)
//	the header, where it is short enough; else it is the beginning of the data
//
// in the order of bytes that both ends have: UCX connects no others.
struct envelope {
	uint64_t key, body;
	uint32_t header, here;
};

enum { MESSAGE_ID = 1 };

// INDEX_MASK is the part of a key that finds the connection; the rest is random,
// and tells it from others.
static const uint64_t INDEX_MASK = 0xffff;

// STEPS bounds what one call of shim_progress does: its owner waits.
enum { STEPS = 32 };

struct conn {
	struct shim *shim;
	uint32_t index;
	uint64_t key, peer_key;
	ucp_ep_h ep;
	struct shim_receiver in;
	uint32_t *empty; // slots that hold no message
	uint32_t empties;
	size_t busy; // UCX's requests that are under way
	bool closing, failed, reported;
};

struct shim {
	ucp_context_h context;
	ucp_worker_h worker;
	size_t longest; // header of an active message
	bool armed;
	bool keeps; // data outlives on_message, so that UCX can write it to devices
	uint64_t strays;

	struct conn **conns;
	uint32_t conns_cap;

	// The ring has room for all that may still happen: promised events are one per
	// send under way, one per empty slot, two per connection.
	struct shim_event *ring;
	size_t head, count, cap, promised;

	// What the last progress handed over. It is here because Go's checks of what it
	// passes to C would cost more than a progress.
	struct shim_event out[SHIM_EVENTS];
	int outs;
};

// ---- events

static int reserve(struct shim *s, size_t more)
{
	size_t need = s->count + s->promised + more, cap = s->cap ? s->cap : 64;
	if (need <= s->cap)
		return UCS_OK;
	while (cap < need)
		cap *= 2;
	struct shim_event *ring = malloc(cap * sizeof *ring);
	if (!ring)
		return UCS_ERR_NO_MEMORY;
	for (size_t i = 0; i < s->count; i++)
		ring[i] = s->ring[(s->head + i) % s->cap];
	free(s->ring);
	s->ring = ring;
	s->head = 0;
	s->cap = cap;
	return UCS_OK;
}

// nudge wakes who waits for the descriptor: there is work that UCX does not see, or
// work of its own that was begun since it was armed.
static void nudge(struct shim *s)
{
	if (s->armed) {
		s->armed = false;
		ucp_worker_signal(s->worker);
	}
}

static void push(struct shim *s, struct shim_event e)
{
	s->ring[(s->head + s->count) % s->cap] = e;
	s->count++;
	s->promised--;
	nudge(s);
}

static void fail(struct conn *c, int status, uint64_t got, uint64_t want)
{
	if (c->failed || c->closing)
		return;
	c->failed = true;
	push(c->shim, (struct shim_event){.kind = SHIM_FAILED, .status = status, .conn = c->index, .got = got, .want = want});
}

// settle reports a connection as closed when nothing of it is under way.
static void settle(struct conn *c)
{
	struct shim *s = c->shim;
	if (!c->closing || c->busy || c->ep || c->reported)
		return;
	c->reported = true;
	s->promised -= c->empties + (c->failed ? 0 : 1);
	push(s, (struct shim_event){.kind = SHIM_CLOSED, .conn = c->index});
}

// ---- opening

// While a thread opens a shim, what UCX says of settings that it has no use for is
// kept here, for the error.
static _Thread_local char *unused;
static _Thread_local size_t unused_bytes;

static ucs_log_func_rc_t take_message(const char *file, unsigned line, const char *function, ucs_log_level_t level,
				       const ucs_log_component_config_t *component, const char *format, va_list ap)
{
	char text[512];
	vsnprintf(text, sizeof text, format, ap);
	if (unused && strncmp(text, "invalid configuration", 21) == 0) {
		snprintf(unused, unused_bytes, "%s", text);
		return UCS_LOG_FUNC_RC_STOP;
	}
	fprintf(stderr, "ucx %s: %s\n", ucs_log_level_names[level], text);
	return UCS_LOG_FUNC_RC_STOP;
}

// UCX would log to the standard output, which is the program's.
static void take_log(void) { ucs_log_push_handler(take_message); }

static ucs_status_t on_message(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
			       const ucp_am_recv_param_t *param);

static int open_context(struct shim *s, char **options, int n, const char **what)
{
	ucp_params_t params = {
		.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
		.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
		.name = "m2n",
	};
	ucp_config_t *config;
	int status;
	*what = "reading the environment";
	if ((status = ucp_config_read(NULL, NULL, &config)) != UCS_OK)
		return status;
	for (int i = 0; i < n && status == UCS_OK; i++) {
		*what = options[2 * i];
		status = ucp_config_modify(config, options[2 * i], options[2 * i + 1]);
	}
	if (status == UCS_OK) {
		*what = "a context";
		status = ucp_init(&params, config, &s->context);
	}
	ucp_config_release(config);
	return status;
}

static int set_handler(struct shim *s)
{
	ucp_am_handler_param_t handler = {
		.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
			      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
		.id = MESSAGE_ID,
		.flags = UCP_AM_FLAG_WHOLE_MSG | (s->keeps ? UCP_AM_FLAG_PERSISTENT_DATA : 0),
		.cb = on_message,
		.arg = s,
	};
	return ucp_worker_set_am_recv_handler(s->worker, &handler);
}

// keep_data lets data outlive on_message from now on.
static int keep_data(struct shim *s)
{
	if (s->keeps)
		return UCS_OK;
	s->keeps = true;
	int status = set_handler(s);
	s->keeps = status == UCS_OK;
	return status;
}

static int open_worker(struct shim *s, const char **what)
{
	ucp_worker_params_t params = {
		.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
		.thread_mode = UCS_THREAD_MODE_SERIALIZED,
	};
	ucp_worker_attr_t attr = {.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER};
	int status;
	*what = "a worker";
	if ((status = ucp_worker_create(s->context, &params, &s->worker)) != UCS_OK)
		return status;
	if ((status = ucp_worker_query(s->worker, &attr)) != UCS_OK)
		return status;
	s->longest = attr.max_am_header;
	if (s->longest < sizeof(struct envelope)) {
		*what = "transports whose messages can have a header";
		return UCS_ERR_UNSUPPORTED;
	}
	return set_handler(s);
}

int shim_open(char **options, int n, struct shim **out, const char **what, char *useless, size_t useless_bytes)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, take_log);
	struct shim *s = calloc(1, sizeof *s);
	*what = "memory";
	if (!s)
		return UCS_ERR_NO_MEMORY;
	unused = useless;
	unused_bytes = useless_bytes;
	int status = open_context(s, options, n, what);
	if (status == UCS_OK)
		status = open_worker(s, what);
	unused = NULL;
	if (status != UCS_OK) {
		shim_destroy(s);
		return status;
	}
	*out = s;
	return UCS_OK;
}

static void free_conn(struct conn *c)
{
	c->shim->conns[c->index] = NULL;
	free(c->empty);
	free(c);
}

// free_out frees what the events of the last progress held.
static void free_out(struct shim *s)
{
	for (int i = 0; i < s->outs; i++) {
		free(s->out[i].header);
		if (s->out[i].kind == SHIM_CLOSED)
			free_conn(s->conns[s->out[i].conn]);
	}
	s->outs = 0;
}

void shim_stop(struct shim *s)
{
	s->armed = false; // requests end here, and nobody is to be woken for them
	if (s->worker)
		ucp_worker_destroy(s->worker);
	s->worker = NULL;
}

void shim_destroy(struct shim *s)
{
	shim_stop(s);
	free_out(s);
	for (size_t i = 0; i < s->count; i++)
		free(s->ring[(s->head + i) % s->cap].header);
	for (uint32_t i = 0; i < s->conns_cap; i++)
		if (s->conns[i])
			free_conn(s->conns[i]);
	if (s->context)
		ucp_cleanup(s->context);
	free(s->conns);
	free(s->ring);
	free(s);
}

int shim_address(struct shim *s, void **address, size_t *bytes)
{
	return ucp_worker_get_address(s->worker, (ucp_address_t **)address, bytes);
}

void shim_free_address(struct shim *s, void *address) { ucp_worker_release_address(s->worker, address); }

int shim_event_fd(struct shim *s, int *fd) { return ucp_worker_get_efd(s->worker, fd); }

int shim_arm(struct shim *s, int *armed)
{
	*armed = 0;
	if (s->count)
		return UCS_OK;
	int status = ucp_worker_arm(s->worker);
	if (status == UCS_ERR_BUSY)
		return UCS_OK;
	*armed = status == UCS_OK;
	s->armed = *armed;
	return status;
}

uint64_t shim_strays(const struct shim *s) { return s->strays; }

const char *shim_text(int status) { return ucs_status_string(status); }

// ---- progress

static void refill(struct shim *s, uint32_t index, uint32_t slot)
{
	struct conn *c = s->conns[index];
	if (c->reported)
		return;
	c->empty[c->empties++] = slot;
	s->promised++;
}

int shim_progress(struct shim *s, const uint32_t *refills, int n)
{
	s->armed = false;
	for (int i = 0; i < n; i++)
		refill(s, refills[2 * i], refills[2 * i + 1]);
	free_out(s);
	for (int i = 0; i < STEPS && ucp_worker_progress(s->worker) && !s->count; i++)
		;
	for (; s->count && s->outs < SHIM_EVENTS; s->outs++) {
		s->out[s->outs] = s->ring[s->head];
		s->head = (s->head + 1) % s->cap;
		s->count--;
	}
	return s->outs;
}

struct shim_event *shim_events(struct shim *s) { return s->out; }

// ---- registration

int shim_register(struct shim *s, void *at, size_t bytes, void **registration)
{
	ucp_mem_map_params_t params = {
		.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
		.address = at,
		.length = bytes,
	};
	return ucp_mem_map(s->context, &params, (ucp_mem_h *)registration);
}

int shim_unregister(struct shim *s, void *registration) { return ucp_mem_unmap(s->context, registration); }

int shim_is_device(void *registration, int *device)
{
	ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_MEM_TYPE};
	int status = ucp_mem_query(registration, &attr);
	*device = status == UCS_OK && attr.mem_type != UCS_MEMORY_TYPE_HOST;
	return status;
}

// ---- connections

static int grow_conns(struct shim *s)
{
	uint32_t cap = s->conns_cap ? 2 * s->conns_cap : 16;
	if (cap > INDEX_MASK + 1)
		return UCS_ERR_EXCEEDS_LIMIT;
	struct conn **conns = realloc(s->conns, cap * sizeof *conns);
	if (!conns)
		return UCS_ERR_NO_MEMORY;
	memset(conns + s->conns_cap, 0, (cap - s->conns_cap) * sizeof *conns);
	s->conns = conns;
	s->conns_cap = cap;
	return UCS_OK;
}

static int free_index(struct shim *s, uint32_t *index)
{
	for (uint32_t i = 0; i < s->conns_cap; i++) {
		if (!s->conns[i]) {
			*index = i;
			return UCS_OK;
		}
	}
	*index = s->conns_cap;
	return grow_conns(s);
}

int shim_conn_open(struct shim *s, uint64_t *key, const struct shim_receiver *r, uint32_t *index)
{
	int status;
	if ((status = free_index(s, index)) != UCS_OK)
		return status;
	if ((status = reserve(s, r->slots + 2)) != UCS_OK)
		return status;
	if (r->device && (status = keep_data(s)) != UCS_OK)
		return status;
	struct conn *c = calloc(1, sizeof *c);
	uint32_t *empty = malloc(r->slots * sizeof *empty);
	if (!c || !empty) {
		free(c);
		free(empty);
		return UCS_ERR_NO_MEMORY;
	}
	for (uint32_t i = 0; i < r->slots; i++)
		empty[i] = r->slots - 1 - i;
	*key = (*key & ~INDEX_MASK) | *index;
	*c = (struct conn){.shim = s, .index = *index, .key = *key, .in = *r, .empty = empty, .empties = r->slots};
	s->conns[*index] = c;
	s->promised += r->slots + 2;
	return UCS_OK;
}

static void on_failure(void *arg, ucp_ep_h ep, ucs_status_t status) { fail(arg, status, 0, 0); }

int shim_conn_connect(struct shim *s, uint32_t index, const void *address, uint64_t peer_key)
{
	struct conn *c = s->conns[index];
	ucp_ep_params_t params = {
		.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
			      UCP_EP_PARAM_FIELD_ERR_HANDLER,
		.address = address,
		.err_mode = UCP_ERR_HANDLING_MODE_PEER,
		.err_handler = {.cb = on_failure, .arg = c},
	};
	c->peer_key = peer_key;
	return ucp_ep_create(s->worker, &params, &c->ep);
}

static void on_closed(void *request, ucs_status_t status, void *arg)
{
	struct conn *c = arg;
	ucp_request_free(request);
	c->busy--;
	settle(c);
}

int shim_conn_close(struct shim *s, uint32_t index)
{
	struct conn *c = s->conns[index];
	ucp_request_param_t param = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
		.flags = UCP_EP_CLOSE_FLAG_FORCE,
		.cb.send = on_closed,
		.user_data = c,
	};
	int status = UCS_OK;
	c->closing = true;
	if (c->ep) {
		c->busy++; // before the call: it completes other requests
		ucs_status_ptr_t request = ucp_ep_close_nbx(c->ep, &param);
		c->ep = NULL;
		if (!UCS_PTR_IS_PTR(request)) {
			c->busy--;
			status = UCS_PTR_RAW_STATUS(request);
		}
	}
	settle(c);
	nudge(s);
	return status;
}

// ---- sending

struct sending {
	struct conn *conn;
	uint64_t token;
	size_t lead; // bytes of the active message's header
	ucp_dt_iov_t *iov;
	struct envelope envelope;
	char header[]; // and, aligned, the pieces
};

static void sent(struct sending *o, int status)
{
	push(o->conn->shim, (struct shim_event){.kind = SHIM_SENT, .status = status, .conn = o->conn->index, .token = o->token});
	free(o);
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
	struct sending *o = arg;
	struct conn *c = o->conn;
	ucp_request_free(request);
	sent(o, status);
	c->busy--;
	settle(c);
}

static size_t aligned(size_t n) { return (n + sizeof(void *) - 1) & ~(sizeof(void *) - 1); }

// pack copies what must outlive the call. The first of the pieces is the header
// where the active message's own cannot hold it.
static struct sending *pack(struct conn *c, const void *header, size_t header_bytes, const struct shim_piece *pieces, size_t *n, size_t body)
{
	struct sending *o = malloc(sizeof *o + aligned(header_bytes) + (*n + 1) * sizeof *o->iov);
	if (!o)
		return NULL;
	bool here = sizeof o->envelope + header_bytes <= c->shim->longest;
	o->conn = c;
	o->envelope = (struct envelope){.key = c->peer_key, .body = body, .header = header_bytes, .here = here};
	o->lead = sizeof o->envelope + (here ? header_bytes : 0);
	if (header_bytes)
		memcpy(o->header, header, header_bytes);
	o->iov = (ucp_dt_iov_t *)(o->header + aligned(header_bytes));
	ucp_dt_iov_t *next = o->iov;
	if (!here)
		*next++ = (ucp_dt_iov_t){o->header, header_bytes};
	if (*n)
		memcpy(next, pieces, *n * sizeof *pieces);
	*n += !here;
	return o;
}

// describe says what is to be sent: nothing, one piece, or a list.
static const void *describe(const ucp_dt_iov_t *iov, size_t *n, ucp_request_param_t *param)
{
	if (*n > 1) {
		param->datatype = ucp_dt_make_iov();
		return iov;
	}
	param->datatype = ucp_dt_make_contig(1);
	const void *at = *n ? iov->buffer : NULL;
	*n = *n ? iov->length : 0;
	return at;
}

int shim_conn_send(struct shim *s, uint32_t index, uint64_t token, const void *header, size_t header_bytes,
		   const struct shim_piece *pieces, size_t n, size_t body, void *registration)
{
	struct conn *c = s->conns[index];
	_Static_assert(sizeof(struct shim_piece) == sizeof(ucp_dt_iov_t), "layout");
	if (reserve(s, 1) != UCS_OK)
		return UCS_ERR_NO_MEMORY;
	bool one = n == 1;
	struct sending *o = pack(c, header, header_bytes, pieces, &n, body);
	if (!o)
		return UCS_ERR_NO_MEMORY;
	o->token = token;
	ucp_request_param_t param = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
		.cb.send = on_sent,
		.user_data = o,
	};
	if (registration && one && n == 1) {
		param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
		param.memh = registration;
	}
	const void *at = describe(o->iov, &n, &param);
	s->promised++;
	c->busy++;
	ucs_status_ptr_t request = ucp_am_send_nbx(c->ep, MESSAGE_ID, &o->envelope, o->lead, at, n, &param);
	nudge(s);
	if (UCS_PTR_IS_PTR(request))
		return UCS_OK;
	c->busy--;
	if (UCS_PTR_IS_ERR(request)) {
		s->promised--;
		free(o);
		return UCS_PTR_STATUS(request);
	}
	sent(o, UCS_OK);
	return UCS_OK;
}

// ---- receiving

struct receiving {
	struct conn *conn;
	uint32_t slot;
	struct envelope envelope;
	ucp_dt_iov_t iov[2];
	void *header;
};

static struct conn *find(struct shim *s, uint64_t key)
{
	uint32_t index = key & INDEX_MASK;
	struct conn *c = index < s->conns_cap ? s->conns[index] : NULL;
	return c && c->key == key && !c->closing && !c->failed ? c : NULL;
}

// admit holds what a message announces to the connection's limits, before
// anything is allocated for it, and to what is there.
static bool admit(struct conn *c, const struct envelope *e, size_t lead, size_t bytes)
{
	uint64_t got = lead + (uint64_t)bytes, want = sizeof *e + (uint64_t)e->header + e->body;
	if (e->header > c->in.header_bytes)
		fail(c, SHIM_HEADER_TOO_LONG, e->header, c->in.header_bytes);
	else if (e->body > c->in.slot_bytes)
		fail(c, SHIM_BODY_TOO_LONG, e->body, c->in.slot_bytes);
	else if (got != want || (e->here && bytes != e->body) || (!e->here && lead != sizeof *e))
		fail(c, SHIM_WRONG_LENGTH, got, want);
	else if (!e->here && c->in.device)
		fail(c, SHIM_HEADER_IN_BODY, e->header, c->shim->longest - sizeof *e);
	else if (c->empties == 0)
		fail(c, SHIM_NO_SLOT, c->in.slots, c->in.slots);
	return !c->failed;
}

static void received(struct conn *c, uint32_t slot, const struct envelope *e, void *header)
{
	push(c->shim, (struct shim_event){.kind = SHIM_RECEIVED, .conn = c->index, .slot = slot, .body = e->body, .header = header, .header_bytes = e->header});
}

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
	struct receiving *r = arg;
	struct conn *c = r->conn;
	if (request)
		ucp_request_free(request);
	c->busy--;
	if (status == UCS_OK && !c->failed && !c->closing) {
		received(c, r->slot, &r->envelope, r->header);
	} else {
		free(r->header);
		c->empty[c->empties++] = r->slot;
		fail(c, status, 0, 0);
	}
	free(r);
	settle(c);
}

// fetch lets UCX write the data into the slot: that of a rendezvous, which comes
// straight there, or what is for a device.
static ucs_status_t fetch(struct conn *c, uint32_t slot, const struct envelope *e, void *header, void *data)
{
	struct receiving *r = malloc(sizeof *r);
	if (!r) {
		free(header);
		c->empty[c->empties++] = slot;
		fail(c, UCS_ERR_NO_MEMORY, 0, 0);
		return UCS_OK;
	}
	char *body = c->in.memory + slot * c->in.stride;
	*r = (struct receiving){.conn = c, .slot = slot, .envelope = *e, .header = header, .iov = {{header, e->header}, {body, e->body}}};
	ucp_request_param_t param = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.datatype = e->here ? ucp_dt_make_contig(1) : ucp_dt_make_iov(),
		.cb.recv_am = on_received,
		.user_data = r,
	};
	if (e->here && c->in.registration) {
		param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
		param.memh = c->in.registration;
	}
	c->busy++;
	ucs_status_ptr_t request = ucp_am_recv_data_nbx(c->shim->worker, data, e->here ? (void *)body : r->iov, e->here ? e->body : 2, &param);
	if (UCS_PTR_IS_PTR(request))
		return UCS_INPROGRESS;
	on_received(NULL, UCS_PTR_RAW_STATUS(request), 0, r);
	return UCS_OK;
}

static ucs_status_t on_message(void *arg, const void *lead, size_t lead_bytes, void *data, size_t bytes,
			       const ucp_am_recv_param_t *param)
{
	struct shim *s = arg;
	struct envelope e;
	struct conn *c = NULL;
	if (lead_bytes >= sizeof e) {
		memcpy(&e, lead, sizeof e);
		c = find(s, e.key);
	}
	if (!c) {
		s->strays++;
		return UCS_OK;
	}
	if (!admit(c, &e, lead_bytes, bytes))
		return UCS_OK;
	void *header = e.header ? malloc(e.header) : NULL;
	if (e.header && !header) {
		fail(c, UCS_ERR_NO_MEMORY, 0, 0);
		return UCS_OK;
	}
	if (e.here && e.header)
		memcpy(header, (const char *)lead + sizeof e, e.header);
	uint32_t slot = c->empty[--c->empties];
	if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV || (c->in.device && e.body))
		return fetch(c, slot, &e, header, data);
	size_t at = e.here ? 0 : e.header;
	if (!e.here)
		memcpy(header, data, e.header);
	if (e.body)
		memcpy(c->in.memory + slot * c->in.stride, (char *)data + at, e.body);
	received(c, slot, &e, header);
	return UCS_OK;
}
