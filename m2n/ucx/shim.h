// What Go calls of UCP. One shim is one context with one worker; its owner calls
// one function of it at a time. Nothing here calls Go: what happens is written to
// a ring of events, which shim_progress hands over.
#ifndef M2N_UCX_SHIM_H
#define M2N_UCX_SHIM_H

#include <stddef.h>
#include <stdint.h>

// Events a call of shim_progress can hand over.
#define SHIM_EVENTS 64

enum shim_kind { SHIM_SENT, SHIM_RECEIVED, SHIM_FAILED, SHIM_CLOSED };

// A status is 0, one of UCX's (negative), or one of these: what a peer has done
// that no peer of ours does.
enum shim_fault {
	SHIM_HEADER_TOO_LONG = 1, // got bytes of header, want at most
	SHIM_BODY_TOO_LONG,       // got bytes of body, want at most
	SHIM_WRONG_LENGTH,        // got bytes in all, want
	SHIM_NO_SLOT,             // got slots that are full, of want
	SHIM_HEADER_IN_BODY,      // got bytes of header, want at most before device memory
};

struct shim_event {
	int32_t kind;
	int32_t status;
	uint32_t conn;
	uint32_t slot;         // received
	uint64_t token;        // sent
	uint64_t body;         // received
	void *header;          // received: valid until the next shim_progress
	uint64_t header_bytes; // received
	uint64_t got, want;    // failed, with a fault
};

struct shim_receiver {
	char *memory;
	size_t stride, slot_bytes, header_bytes;
	uint32_t slots;
	void *registration; // of memory, or NULL
	int device;         // memory is a device's: only UCX may write to it
};

// shim_piece has the layout of ucp_dt_iov_t.
struct shim_piece {
	uintptr_t at;
	size_t bytes;
};

struct shim;

// All that return int return a status.

// shim_open takes n pairs of names and values. On an error, what says in what.
// Settings that no transport has a use for are named in useless.
int shim_open(char **options, int n, struct shim **out, const char **what, char *useless, size_t useless_bytes);
// shim_stop ends all that is under way, whether connections are closed or not.
void shim_stop(struct shim *s);
// shim_destroy frees everything, once no memory is registered.
void shim_destroy(struct shim *s);
int shim_address(struct shim *s, void **address, size_t *bytes);
void shim_free_address(struct shim *s, void *address);
int shim_event_fd(struct shim *s, int *fd);
// shim_arm sets armed to 0 where there is work now.
int shim_arm(struct shim *s, int *armed);
// shim_progress empties the refilled slots (pairs of connection and slot), lets
// UCX work, and writes up to SHIM_EVENTS events to where shim_events says. What it
// wrote before has been taken: the numbers of closed connections are free again.
int shim_progress(struct shim *s, const uint32_t *refill, int refills);
struct shim_event *shim_events(struct shim *s);
// shim_strays counts messages for connections that are not, or no longer, here.
uint64_t shim_strays(const struct shim *s);

int shim_register(struct shim *s, void *at, size_t bytes, void **registration);
int shim_unregister(struct shim *s, void *registration);
// shim_is_device tells whether registered memory is a device's.
int shim_is_device(void *registration, int *device);

// shim_conn_open takes random bits for a key, and makes it one.
int shim_conn_open(struct shim *s, uint64_t *key, const struct shim_receiver *r, uint32_t *conn);
int shim_conn_connect(struct shim *s, uint32_t conn, const void *address, uint64_t peer_key);
// shim_conn_send copies header and pieces. registration is of the one piece, or
// NULL.
int shim_conn_send(struct shim *s, uint32_t conn, uint64_t token, const void *header, size_t header_bytes,
		   const struct shim_piece *pieces, size_t n, size_t body, void *registration);
int shim_conn_close(struct shim *s, uint32_t conn);

const char *shim_text(int status);

#endif
