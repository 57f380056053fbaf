/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts the heap of a process (glibc), preloaded: bytes in blocks of at least BLOCK bytes now, and at most since reset.
 * The whole of an allocation is counted, also what threads and the inside of an operation hold. Maps are not counted.
 */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#define BLOCK 4096

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_long live, peak;

static void count(long bytes)
{
	long now = atomic_fetch_add(&live, bytes) + bytes;
	long most = atomic_load(&peak);

	while (now > most && !atomic_compare_exchange_weak(&peak, &most, now))
		;
}

static long counted(void *block)
{
	size_t bytes = block ? malloc_usable_size(block) : 0;

	return bytes >= BLOCK ? (long)bytes : 0;
}

static void *found(void *block)
{
	long bytes = counted(block);

	if (bytes)
		count(bytes);
	return block;
}

void *malloc(size_t bytes) { return found(__libc_malloc(bytes)); }
void *calloc(size_t count_, size_t bytes) { return found(__libc_calloc(count_, bytes)); }
void *memalign(size_t alignment, size_t bytes) { return found(__libc_memalign(alignment, bytes)); }
void *aligned_alloc(size_t alignment, size_t bytes) { return found(__libc_memalign(alignment, bytes)); }
void *valloc(size_t bytes) { return found(__libc_memalign((size_t)getpagesize(), bytes)); }

int posix_memalign(void **result, size_t alignment, size_t bytes)
{
	void *block;

	if (alignment % sizeof(void *) || !alignment || (alignment & (alignment - 1)))
		return EINVAL;
	block = __libc_memalign(alignment, bytes);
	if (!block)
		return ENOMEM;
	*result = found(block);
	return 0;
}

void *realloc(void *block, size_t bytes)
{
	long before = counted(block);
	void *moved = __libc_realloc(block, bytes);

	/* a failed call leaves the block; one of no bytes frees it */
	if (moved || !bytes)
		count(counted(moved) - before);
	return moved;
}

void free(void *block)
{
	long bytes = counted(block);

	if (bytes)
		count(-bytes);
	__libc_free(block);
}

long meter_live(void) { return atomic_load(&live); }
long meter_peak(void) { return atomic_load(&peak); }
void meter_reset(void) { atomic_store(&peak, atomic_load(&live)); }
