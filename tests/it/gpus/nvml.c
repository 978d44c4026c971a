/*
 * A stand-in for NVIDIA's management library: the calls that the service makes, and
 * what they answer told by a file beside the library, of its name and ".conf". It is
 * read again with each count of the devices, which adds a byte to the file ".looks"
 * beside it. Lines, each a word and key=value pairs,
 * where "_" stands for a space:
 *
 *   init code=18                 what nvmlInit_v2 answers; 0 is success
 *   hang                         counting the devices never ends
 *   driver version=550.54.15 cuda=12040
 *   device uuid=GPU-1 name=NVIDIA_T4 total=N reserved=N used=N [lost=15] [mig=1] ...
 *     [xid=79 xidno=N]           it reports this error, once for each N
 *   instance uuid=MIG-1 name=NVIDIA_A100_MIG_1g.5gb total=N used=N     of that device
 *   process pid=N used=N         of the device or instance before it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10 };
enum { XID_EVENT = 8 };
enum { DEVICES = 16, PARTS = 8, PROCESSES = 32 };

typedef unsigned long long u64;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;

typedef struct device {
    char uuid[80], name[80];
    u64 total, reserved, used, errors, xid, xidno;
    int lost, mig, busy, temp, power, limit, ecc;
    int parts, processes;
    struct device *part[PARTS];
    process_t process[PROCESSES];
} device_t;

static struct {
    int init, hang, count, cuda;
    char driver[80];
    device_t devices[DEVICES], parts[DEVICES * PARTS];
} node;

static u64 number(const char *line, const char *key, u64 otherwise) {
    char word[40];
    snprintf(word, sizeof word, " %s=", key);
    const char *at = strstr(line, word);
    return at ? strtoull(at + strlen(word), NULL, 10) : otherwise;
}

static void text(const char *line, const char *key, char *into, size_t size) {
    char word[40];
    snprintf(word, sizeof word, " %s=", key);
    const char *at = strstr(line, word);
    size_t length = at ? strcspn(at + strlen(word), " \n") : 0;
    if (length >= size) length = size - 1;
    if (at) memcpy(into, at + strlen(word), length);
    into[length] = 0;
    for (char *c = into; *c; c++) if (*c == '_') *c = ' ';
}

static void describe(device_t *it, const char *line) {
    memset(it, 0, sizeof *it);
    text(line, "uuid", it->uuid, sizeof it->uuid);
    text(line, "name", it->name, sizeof it->name);
    it->total = number(line, "total", 0);
    it->reserved = number(line, "reserved", 0);
    it->used = number(line, "used", 0);
    it->errors = number(line, "errors", 0);
    it->xid = number(line, "xid", 0);
    it->xidno = number(line, "xidno", 0);
    it->lost = (int)number(line, "lost", 0);
    it->mig = (int)number(line, "mig", 2);
    it->busy = (int)number(line, "busy", 0);
    it->temp = (int)number(line, "temp", 0);
    it->power = (int)number(line, "power", 0);
    it->limit = (int)number(line, "limit", 0);
    it->ecc = (int)number(line, "ecc", 2);
}

static void load(void) {
    Dl_info self;
    char path[4096], line[512];
    int parts = 0;
    device_t *device = NULL, *last = NULL;
    if (!dladdr((void *)load, &self)) return;
    snprintf(path, sizeof path, "%s.conf", self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return;
    memset(&node, 0, sizeof node);
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "init", 4)) node.init = (int)number(line, "code", 0);
        if (!strncmp(line, "hang", 4)) node.hang = 1;
        if (!strncmp(line, "driver", 6)) {
            text(line, "version", node.driver, sizeof node.driver);
            node.cuda = (int)number(line, "cuda", 0);
        }
        if (!strncmp(line, "device", 6) && node.count < DEVICES) {
            device = last = &node.devices[node.count++];
            describe(device, line);
        }
        if (!strncmp(line, "instance", 8) && device && device->parts < PARTS) {
            last = device->part[device->parts++] = &node.parts[parts++];
            describe(last, line);
        }
        if (!strncmp(line, "process", 7) && last && last->processes < PROCESSES) {
            process_t one = { (unsigned)number(line, "pid", 0), number(line, "used", 0), ~0u, ~0u };
            last->process[last->processes++] = one;
            if (last != device) device->process[device->processes++] = one;
        }
    }
    fclose(file);
}

/* What a lost device answers to everything. */
#define ALIVE(it) if ((it)->lost) return (it)->lost
#define TOLD(value) if ((value) == 2) return UNSUPPORTED

int nvmlInit_v2(void) { load(); return node.init; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *into, unsigned size) {
    snprintf(into, size, "%s", node.driver);
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = node.cuda; return SUCCESS; }

static void note_look(void) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)load, &self)) return;
    snprintf(path, sizeof path, "%s.looks", self.dli_fname);
    FILE *file = fopen(path, "a");
    if (!file) return;
    fputc('.', file);
    fclose(file);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    load();
    note_look();
    while (node.hang) pause();
    *count = (unsigned)node.count;
    return node.init;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    if (index >= (unsigned)node.count) return INVALID;
    ALIVE(&node.devices[index]);
    *device = &node.devices[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t *it, char *into, unsigned size) {
    snprintf(into, size, "%s", it->uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(device_t *it, char *into, unsigned size) {
    snprintf(into, size, "%s", it->name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device_t *it, memory_t *memory) {
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID;
    memory->total = it->total;
    memory->reserved = it->reserved;
    memory->used = it->used;
    memory->free = it->total - it->reserved - it->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device_t *it, rates_t *rates) {
    rates->gpu = (unsigned)it->busy;
    rates->memory = (unsigned)it->busy / 2;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(device_t *it, int sensor, unsigned *degrees) {
    (void)sensor;
    *degrees = (unsigned)it->temp;
    return it->temp ? SUCCESS : UNSUPPORTED;
}

int nvmlDeviceGetPowerUsage(device_t *it, unsigned *milliwatts) {
    *milliwatts = (unsigned)it->power;
    return it->power ? SUCCESS : UNSUPPORTED;
}

int nvmlDeviceGetEnforcedPowerLimit(device_t *it, unsigned *milliwatts) {
    *milliwatts = (unsigned)it->limit;
    return it->limit ? SUCCESS : UNSUPPORTED;
}

int nvmlDeviceGetEccMode(device_t *it, int *now, int *next) {
    TOLD(it->ecc);
    *now = *next = it->ecc;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(device_t *it, int kind, int counter, u64 *count) {
    *count = kind == 1 && counter == 0 ? it->errors : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device_t *it, unsigned *now, unsigned *next) {
    TOLD(it->mig);
    *now = *next = (unsigned)it->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t *it, unsigned *count) {
    *count = it->mig == 1 ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t *it, unsigned index, device_t **part) {
    if (index >= (unsigned)it->parts) return NOT_FOUND;
    *part = it->part[index];
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *it, unsigned *count, process_t *into) {
    unsigned room = *count;
    *count = (unsigned)it->processes;
    if (it->processes && (!into || room < *count)) return TOO_SMALL;
    if (into) memcpy(into, it->process, *count * sizeof *into);
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *it, unsigned *count, process_t *into) {
    (void)it;
    (void)into;
    *count = 0;
    return SUCCESS;
}

/* Errors, each told once to whoever listens to the device. */
typedef struct { device_t *device; } set_t;
typedef struct { device_t *device; u64 type, data; unsigned gpu_instance, compute_instance; } event_t;
static u64 told[DEVICES];

int nvmlEventSetCreate(set_t **set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlEventSetFree(set_t *set) {
    free(set);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(device_t *it, u64 types, set_t *set) {
    set->device = it;
    return types == XID_EVENT ? SUCCESS : INVALID;
}

int nvmlEventSetWait_v2(set_t *set, event_t *event, unsigned wait) {
    device_t *it = set->device;
    (void)wait;
    if (!it || it->xidno == told[it - node.devices]) return TIMEOUT;
    told[it - node.devices] = it->xidno;
    memset(event, 0, sizeof *event);
    event->device = it;
    event->type = XID_EVENT;
    event->data = it->xid;
    return SUCCESS;
}
