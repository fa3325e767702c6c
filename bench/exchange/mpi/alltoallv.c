// An end of the contestant "mpi" of `tandem bench m2n`: MPI_Alltoallv of the
// rows that each sender has for each receiver, under the barrier and the clock
// that all contestants share. page_linux.go describes the page, and has the same
// structures; end_linux.go is the same end in Go.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ROUND = 20000, SPINS_PER_YIELD = 64 };

struct header {
	uint64_t magic, bytes;
	uint32_t senders, receivers, messages, pad0[9];
	_Atomic uint32_t command;
	uint32_t iterations, spin, check;
	_Atomic uint32_t stop;
	uint32_t pad1[11];
	_Atomic uint32_t arrived;
	uint32_t pad2[15];
	_Atomic uint32_t generation;
	uint32_t pad3[15];
	_Atomic uint32_t finished;
	uint32_t pad4[15];
};
_Static_assert(sizeof(struct header) == 5 * 64, "header as in page_linux.go");

struct member {
	int64_t cpu;
	uint64_t pad[7];
	char address[256];
};

static struct header *page;
static struct member *members;
static int64_t *starts, *done; // done: of receiver 0, then of 1, ...

static void fail(const char *what) {
	perror(what);
	MPI_Abort(MPI_COMM_WORLD, 1);
	exit(1);
}

static void open_page(const char *path) {
	int fd = open(path, O_RDWR);
	struct stat info;
	if (fd < 0 || fstat(fd, &info) != 0)
		fail(path);
	char *mem = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		fail("map the page");
	close(fd);
	page = (struct header *)mem;
	if (page->magic != 0x31584d45444e4154)
		fail("the page's magic number");
	members = (struct member *)(mem + sizeof *page);
	starts = (int64_t *)(members + page->senders + page->receivers);
	done = starts + MAX_ROUND;
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t cpu_time(void) {
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}

static void wait_while(_Atomic uint32_t *word, uint32_t value) {
	while (atomic_load(word) == value)
		syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0); }

// meet waits at the barrier for all ends. The last to arrive stamps the start.
static void meet(int iteration) {
	uint32_t generation = atomic_load(&page->generation);
	if (atomic_fetch_add(&page->arrived, 1) + 1 < page->senders + page->receivers) {
		if (!page->spin)
			wait_while(&page->generation, generation);
		for (int spins = 1; atomic_load(&page->generation) == generation; spins++)
			if (spins % SPINS_PER_YIELD == 0)
				sched_yield();
		return;
	}
	atomic_store(&page->arrived, 0);
	if (iteration >= 0)
		starts[iteration] = now();
	atomic_fetch_add(&page->generation, 1);
	if (!page->spin)
		wake(&page->generation);
}

static uint64_t word(uint64_t s, uint64_t r, uint64_t w) {
	uint64_t x = (s << 48 ^ r << 32 ^ w) * 0x9e3779b97f4a7c15;
	return x ^ x >> 29;
}

// check compares a message with what was sent.
static void check(const uint64_t *row, int s, int r, uint64_t mark, int all) {
	uint64_t words = all ? page->bytes / 8 : 1;
	for (uint64_t w = 0; w < words; w++) {
		uint64_t want = w == 0 ? mark : word(s, r, w);
		if (row[w] != want) {
			fprintf(stderr, "message of sender %d to receiver %d: %#lx at offset %lu, want %#lx\n", s, r, row[w], 8 * w, want);
			MPI_Abort(MPI_COMM_WORLD, 1);
		}
	}
}

int main(int argc, char **argv) {
	prctl(PR_SET_PDEATHSIG, SIGKILL); // nothing outlives mpirun
	MPI_Init(&argc, &argv);
	if (argc != 2)
		fail("usage: alltoallv PAGE");
	open_page(argv[1]);
	int rank, size, senders = page->senders, receivers = page->receivers;
	uint64_t bytes = page->bytes;
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (size != senders + receivers)
		fail("the number of ranks");
	int sends = rank < senders, self = rank - senders, peers = sends ? receivers : senders;
	uint64_t *rows = aligned_alloc(4096, (peers * bytes + 4095) / 4096 * 4096);
	int *counts = calloc(size, sizeof *counts), *offsets = calloc(size, sizeof *offsets), *zeros = calloc(size, sizeof *zeros);
	if (!rows || !counts || !offsets || !zeros)
		fail("memory");
	for (int i = 0; i < peers; i++) {
		int peer = sends ? senders + i : i;
		counts[peer] = bytes;
		offsets[peer] = i * bytes;
		for (uint64_t w = 0; w < bytes / 8; w++)
			rows[i * bytes / 8 + w] = sends ? word(rank, i, w) : 0;
	}
	meet(-1);
	for (uint32_t round = 1;; round++) {
		wait_while(&page->command, round - 1);
		if (atomic_load(&page->stop))
			break;
		int64_t before = cpu_time();
		for (uint32_t i = 0; i < page->iterations; i++) {
			uint64_t mark = (uint64_t)round << 32 | i;
			meet(i);
			for (int p = 0; sends && p < peers; p++)
				rows[p * bytes / 8] = mark;
			for (uint32_t m = 0; m < page->messages; m++) {
				MPI_Alltoallv(rows, sends ? counts : zeros, sends ? offsets : zeros, MPI_BYTE,
					rows, sends ? zeros : counts, sends ? zeros : offsets, MPI_BYTE, MPI_COMM_WORLD);
				for (int p = 0; !sends && p < peers; p++)
					check(rows + p * bytes / 8, p, self, mark, page->check);
			}
			if (!sends)
				done[(int64_t)self * MAX_ROUND + i] = now();
		}
		members[rank].cpu = cpu_time() - before;
		if (atomic_fetch_add(&page->finished, 1) + 1 == (uint32_t)size)
			wake(&page->finished);
	}
	MPI_Finalize();
	return 0;
}
