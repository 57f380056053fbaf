/* SPDX-License-Identifier: Apache-2.0
 *
 * A libnvidia-ml.so.1 with one GPU and the manners of NVIDIA's: locks stay until they are reset, an inverted range is
 * an invalid argument, setters want root, an idle GPU rests at its lowest clock, the energy counter always grows.
 *
 * What it is doing is read from the environment at every call (a test sets it with C's setenv, through Python):
 *   NVML_NOT_ROOT=1          setters answer NO_PERMISSION
 *   NVML_ORIN=1              a Jetson's: a name, and nothing else
 *   NVML_BUSY=1              kernels run
 *   NVML_HELD_MHZ=300        a busy GPU's graphics clock, whatever is locked
 *   NVML_REASONS=72          event reasons beside those of an idle GPU
 *   NVML_REFUSE=call:15,...  return codes by name of a function
 *   NVML_STATE=FILE          where the card's state outlives the process, as NVIDIA's does; read once
 * Functions named in the compiler's -DWITHOUT_<function> are not in the library at all.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, TOO_SMALL = 7 };

#define CALL __attribute__((visibility("default")))
#define ENTER(setter) \
	do { int code = refused(__func__, device, setter); if (code) return code; } while (0)

typedef void *device_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct {
	unsigned field, scope;
	long long timestamp_us, latency_us;
	int kind, code;
	union { double d; unsigned u; unsigned long long ull; long long ll; } value;
} field_t;

static int gpu;
static struct state {
	unsigned gpu_lock[2], memory_lock[2], limit_mw;
	unsigned long long energy_mj;
} in_process, *state = &in_process;

static unsigned number(const char *name)
{
	const char *text = getenv(name);
	return text ? strtoul(text, 0, 0) : 0;
}

static int refused(const char *name, device_t device, int setter)
{
	const char *list = getenv("NVML_REFUSE");
	size_t length = strlen(name);
	for (const char *at = list; at && (at = strstr(at, name)); at += length)
		if ((at == list || at[-1] == ',') && at[length] == ':' && strtoul(at + length + 1, 0, 10))
			return strtoul(at + length + 1, 0, 10);
	if (device != &gpu)
		return INVALID;
	if (number("NVML_ORIN") && strcmp(name, "nvmlDeviceGetName"))
		return NOT_SUPPORTED;
	return setter && number("NVML_NOT_ROOT") ? NO_PERMISSION : OK;
}

CALL int nvmlInitWithFlags(unsigned flags)
{
	const char *path = getenv("NVML_STATE");
	(void)flags;
	if (path && state == &in_process) {
		int file = open(path, O_RDWR | O_CREAT, 0600);
		if (file < 0 || ftruncate(file, sizeof *state))
			return 999;
		state = mmap(0, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		close(file);
	}
	if (!state->limit_mw)
		state->limit_mw = 300000;
	return OK;
}

CALL int nvmlShutdown(void) { return OK; }

CALL const char *nvmlErrorString(int code)
{
	return code == NO_PERMISSION ? "Insufficient Permissions" : code == NOT_SUPPORTED ? "Not Supported" : "Stub Error";
}

CALL int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }

CALL int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device)
{
	*device = &gpu;
	return index ? INVALID : OK;
}

CALL int nvmlDeviceGetName(device_t device, char *name, unsigned length)
{
	ENTER(0);
	strncpy(name, number("NVML_ORIN") ? "Orin (nvgpu)" : "Stub GPU", length);
	return OK;
}

static int list(unsigned *count, unsigned *clocks, unsigned from, unsigned to, unsigned step)
{
	unsigned size = (to - from) / step + 1;
	int fits = clocks && *count >= size;
	*count = size;
	for (unsigned i = 0; fits && i < size; i++)
		clocks[i] = to - i * step;
	return fits ? OK : TOO_SMALL;
}

CALL int nvmlDeviceGetSupportedMemoryClocks(device_t device, unsigned *count, unsigned *clocks)
{
	static const unsigned memory[] = {7001, 5001, 405};
	ENTER(0);
	int fits = clocks && *count >= 3;
	*count = 3;
	if (fits)
		memcpy(clocks, memory, sizeof memory);
	return fits ? OK : TOO_SMALL;
}

CALL int nvmlDeviceGetSupportedGraphicsClocks(device_t device, unsigned memory, unsigned *count, unsigned *clocks)
{
	ENTER(0);
	return list(count, clocks, 210, memory == 405 ? 420 : 1740, 15);
}

CALL int nvmlDeviceGetClockInfo(device_t device, int kind, unsigned *clock)
{
	ENTER(0);
	if (!number("NVML_BUSY"))
		*clock = kind == 2 ? 405 : 210;
	else if (kind == 2)
		*clock = state->memory_lock[1] ? state->memory_lock[1] : 7001;
	else
		*clock = number("NVML_HELD_MHZ") ? number("NVML_HELD_MHZ") : state->gpu_lock[1] ? state->gpu_lock[1] : 1740;
	return OK;
}

#ifndef WITHOUT_nvmlDeviceGetCurrentClocksEventReasons
CALL int nvmlDeviceGetCurrentClocksEventReasons(device_t device, unsigned long long *reasons)
{
	ENTER(0);
	*reasons = number("NVML_REASONS") | !number("NVML_BUSY");
	return OK;
}
#endif

CALL int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *reasons)
{
	ENTER(0);
	*reasons = number("NVML_REASONS") | !number("NVML_BUSY");
	return OK;
}

CALL int nvmlDeviceGetUtilizationRates(device_t device, utilisation_t *utilisation)
{
	ENTER(0);
	utilisation->gpu = number("NVML_BUSY") ? 100 : 0;
	utilisation->memory = 0;
	return OK;
}

CALL int nvmlDeviceGetPersistenceMode(device_t device, int *mode) { ENTER(0); *mode = 0; return OK; }
CALL int nvmlDeviceGetPowerUsage(device_t device, unsigned *mw) { ENTER(0); *mw = 55000; return OK; }
CALL int nvmlDeviceGetTemperature(device_t device, int sensor, unsigned *celsius)
{
	ENTER(0);
	*celsius = 41;
	return sensor ? INVALID : OK;
}

CALL int nvmlDeviceGetFieldValues(device_t device, int count, field_t *fields)
{
	ENTER(0);
	for (int i = 0; i < count; i++) {
		fields[i].kind = 1;
		fields[i].code = fields[i].field == 186 || fields[i].field == 82 ? OK : NOT_SUPPORTED;
		fields[i].value.u = fields[i].field == 186 ? 56789 : 52;
	}
	return OK;
}

#ifndef WITHOUT_nvmlDeviceGetTotalEnergyConsumption
CALL int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *mj)
{
	ENTER(0);
	*mj = state->energy_mj += 100;
	return OK;
}
#endif

CALL int nvmlDeviceGetPowerManagementLimit(device_t device, unsigned *mw) { ENTER(0); *mw = state->limit_mw; return OK; }
CALL int nvmlDeviceGetPowerManagementDefaultLimit(device_t device, unsigned *mw) { ENTER(0); *mw = 300000; return OK; }

CALL int nvmlDeviceGetPowerManagementLimitConstraints(device_t device, unsigned *lowest, unsigned *highest)
{
	ENTER(0);
	*lowest = 100000;
	*highest = 300000;
	return OK;
}

CALL int nvmlDeviceSetPowerManagementLimit(device_t device, unsigned mw)
{
	ENTER(1);
	if (mw < 100000 || mw > 300000)
		return INVALID;
	state->limit_mw = mw;
	return OK;
}

static int lock(unsigned *range, unsigned lowest, unsigned highest)
{
	if (lowest > highest)
		return INVALID;
	range[0] = lowest;
	range[1] = highest;
	return OK;
}

CALL int nvmlDeviceSetGpuLockedClocks(device_t device, unsigned lowest, unsigned highest)
{
	ENTER(1);
	return lock(state->gpu_lock, lowest, highest);
}

CALL int nvmlDeviceResetGpuLockedClocks(device_t device) { ENTER(1); return lock(state->gpu_lock, 0, 0); }

#ifndef WITHOUT_nvmlDeviceSetMemoryLockedClocks
CALL int nvmlDeviceSetMemoryLockedClocks(device_t device, unsigned lowest, unsigned highest)
{
	ENTER(1);
	return lock(state->memory_lock, lowest, highest);
}
#endif

CALL int nvmlDeviceResetMemoryLockedClocks(device_t device) { ENTER(1); return lock(state->memory_lock, 0, 0); }

/* For the tests alone: the locks that NVML itself never tells. */
CALL void stub_locks(unsigned locks[4])
{
	memcpy(locks, state->gpu_lock, sizeof state->gpu_lock);
	memcpy(locks + 2, state->memory_lock, sizeof state->memory_lock);
}
