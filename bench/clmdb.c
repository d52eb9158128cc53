/* The limit: LMDB from C, doing the gets and puts that the store does, and nothing else.
 *
 *     clmdb get  DIR DB KEYS BATCH hold|renew CHECK OUT
 *     clmdb put  DIR DB PUTS PER_TXN sync|nosync given|sorted online|both
 *     clmdb load DIR DB PUTS PER_TXN
 *
 * get   looks every key up and copies its value out; a read transaction for each BATCH keys, reset
 *       and renewed, or one for all.  The values of the keys in CHECK are written to OUT.
 * put   puts records in transactions of PER_TXN, the first of which warms up, in the order given or
 *       sorted within each; `both` also appends them to a second database, as history, in entries
 *       of a megabyte, and a row to a third: what the store writes in the same transaction.
 * load  puts sorted records into an empty environment with MDB_APPEND.
 *
 * KEYS is u32 count, then u16 length and bytes of each; PUTS is u32 count, then u16 length, key,
 * u32 length, value of each; OUT is u32 length and bytes of each, 0 for none.  Little endian, like
 * the machine.  The answer is one line of JSON.  Flags are those of the store's environment.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { ENTRY_BYTES_MAX = 1 << 20 };
static const size_t MAP_BYTES = (size_t)1 << 40;

typedef struct {
    MDB_val key, value;
} row;

typedef struct {
    row *rows;
    uint32_t count;
} table;

static void check(int code, const char *what) {
    if (code == 0) return;
    fprintf(stderr, "%s: %s\n", what, mdb_strerror(code));
    exit(1);
}

static void require(int fine, const char *what) {
    if (fine) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* ── input ────────────────────────────────────────────────────────────────────────────────── */

static table read_table(const char *path, int with_values) {
    FILE *file = fopen(path, "rb");
    require(file != NULL, path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    uint8_t *at = malloc(size), *end = at + size;
    require(at != NULL && fread(at, 1, size, file) == (size_t)size, "short read");
    fclose(file);
    table found;
    memcpy(&found.count, at, 4);
    at += 4;
    found.rows = calloc(found.count ? found.count : 1, sizeof(row));
    for (uint32_t i = 0; i < found.count; i++) {
        uint16_t key_length;
        uint32_t value_length = 0;
        memcpy(&key_length, at, 2);
        found.rows[i].key = (MDB_val){key_length, at + 2};
        at += 2 + key_length;
        if (with_values) {
            memcpy(&value_length, at, 4);
            found.rows[i].value = (MDB_val){value_length, at + 4};
            at += 4 + value_length;
        }
        require(at <= end, "the input is cut short");
    }
    return found;
}

/* ── measuring ────────────────────────────────────────────────────────────────────────────── */

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

typedef struct {
    double wall, cpu, user, sys;
} usage;

static usage usage_now(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (usage){now(CLOCK_MONOTONIC), now(CLOCK_PROCESS_CPUTIME_ID),
                   r.ru_utime.tv_sec + r.ru_utime.tv_usec * 1e-6,
                   r.ru_stime.tv_sec + r.ru_stime.tv_usec * 1e-6};
}

static void reset_peak_memory(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file == NULL) return;
    fputs("5", file);
    fclose(file);
}

static long kib_of(const char *name) {
    char line[256];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0) kib = atol(line + strlen(name) + 1);
    if (file != NULL) fclose(file);
    return kib;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t count, double share) {
    size_t rank = (size_t)(count * share + 0.999999);
    return sorted[rank == 0 ? 0 : rank - 1];
}

/* What the measured and the timed pass of `get` have found. */
static size_t found;

static void report(usage from, usage to, size_t units, double *seconds, size_t calls) {
    qsort(seconds, calls, sizeof *seconds, ascending);
    printf("{\"units\": %zu, \"wall_s\": %.9f, \"cpu_s\": %.9f, \"user_s\": %.6f, \"sys_s\": %.6f",
           units, to.wall - from.wall, to.cpu - from.cpu, to.user - from.user, to.sys - from.sys);
    if (calls)
        printf(", \"calls\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f", calls,
               percentile(seconds, calls, 0.50) * 1e6, percentile(seconds, calls, 0.99) * 1e6,
               seconds[calls - 1] * 1e6);
    if (found) printf(", \"found\": %zu", found);
    printf(", \"peak_bytes\": %ld, \"anonymous_bytes\": %ld", kib_of("VmHWM") * 1024,
           kib_of("RssAnon") * 1024);
    printf(", \"versions\": {\"liblmdb\": \"%d.%d.%d\"}}\n", MDB_VERSION_MAJOR, MDB_VERSION_MINOR,
           MDB_VERSION_PATCH);
}

/* ── environments ─────────────────────────────────────────────────────────────────────────── */

static MDB_env *open_env(const char *folder, unsigned flags) {
    MDB_env *env;
    check(mdb_env_create(&env), "mdb_env_create");
    check(mdb_env_set_mapsize(env, MAP_BYTES), "mdb_env_set_mapsize");
    check(mdb_env_set_maxdbs(env, 16), "mdb_env_set_maxdbs");
    check(mdb_env_open(env, folder, MDB_NOTLS | flags, 0644), "mdb_env_open");
    return env;
}

static MDB_txn *begin(MDB_env *env, unsigned flags) {
    MDB_txn *txn;
    check(mdb_txn_begin(env, NULL, flags, &txn), "mdb_txn_begin");
    return txn;
}

static MDB_dbi open_db(MDB_env *env, const char *name, unsigned flags) {
    MDB_dbi db;
    MDB_txn *txn = begin(env, flags & MDB_CREATE ? 0 : MDB_RDONLY);
    check(mdb_dbi_open(txn, name, flags, &db), "mdb_dbi_open");
    check(mdb_txn_commit(txn), "mdb_txn_commit");
    return db;
}

/* ── get ──────────────────────────────────────────────────────────────────────────────────── */

static uint8_t copied[1 << 20];

static void get(MDB_txn *txn, MDB_dbi db, MDB_val *key) {
    MDB_val value;
    int code = mdb_get(txn, db, key, &value);
    if (code == MDB_NOTFOUND) return;
    check(code, "mdb_get");
    memcpy(copied, value.mv_data, value.mv_size);
    found++;
}

/* One pass over the keys; the seconds of each batch go to `seconds`, unless that is NULL. */
static void get_all(MDB_txn *txn, MDB_dbi db, table keys, size_t batch, int renew,
                    double *seconds) {
    for (size_t i = 0, n = 0; i < keys.count; n++) {
        size_t end = i + batch < keys.count ? i + batch : keys.count;
        double start = seconds ? now(CLOCK_MONOTONIC) : 0;
        if (renew) check(mdb_txn_renew(txn), "mdb_txn_renew");
        for (; i < end; i++) get(txn, db, &keys.rows[i].key);
        if (renew) mdb_txn_reset(txn);
        if (seconds) seconds[n] = now(CLOCK_MONOTONIC) - start;
    }
}

static void write_values(MDB_txn *txn, MDB_dbi db, const char *keys_path, const char *path) {
    table keys = read_table(keys_path, 0);
    FILE *file = fopen(path, "wb");
    require(file != NULL, path);
    for (uint32_t i = 0; i < keys.count; i++) {
        MDB_val value = {0, NULL};
        int code = mdb_get(txn, db, &keys.rows[i].key, &value);
        if (code != MDB_NOTFOUND) check(code, "mdb_get");
        uint32_t length = value.mv_size;
        fwrite(&length, 4, 1, file);
        fwrite(value.mv_data, 1, length, file);
    }
    require(fclose(file) == 0, path);
}

static void run_get(char **arg) {
    MDB_env *env = open_env(arg[0], 0);
    MDB_dbi db = open_db(env, arg[1], 0);
    table keys = read_table(arg[2], 0);
    size_t batch = strtoul(arg[3], NULL, 10);
    int renew = strcmp(arg[4], "renew") == 0;
    size_t batches = (keys.count + batch - 1) / batch;
    double *seconds = calloc(batches + 1, sizeof *seconds);
    MDB_txn *txn = begin(env, MDB_RDONLY);
    write_values(txn, db, arg[5], arg[6]);
    if (renew) mdb_txn_reset(txn);
    get_all(txn, db, keys, batch, renew, NULL); /* warm up */
    reset_peak_memory();
    found = 0;
    usage from = usage_now();
    get_all(txn, db, keys, batch, renew, NULL);
    usage to = usage_now();
    get_all(txn, db, keys, batch, renew, seconds);
    report(from, to, batches, seconds, batches);
    mdb_txn_abort(txn);
    mdb_env_close(env);
}

/* ── put ──────────────────────────────────────────────────────────────────────────────────── */

static int by_key(const void *a, const void *b) {
    const MDB_val *x = &((const row *)a)->key, *y = &((const row *)b)->key;
    size_t shorter = x->mv_size < y->mv_size ? x->mv_size : y->mv_size;
    int order = memcmp(x->mv_data, y->mv_data, shorter);
    return order ? order : (x->mv_size > y->mv_size) - (x->mv_size < y->mv_size);
}

static void big_endian(uint8_t *to, uint64_t number) {
    for (int i = 0; i < 8; i++) to[i] = number >> (56 - 8 * i);
}

/* Append the rows of one transaction to the history, in entries of a megabyte. */
static void put_history(MDB_txn *txn, MDB_dbi history, MDB_dbi commits, const row *rows,
                        size_t count, uint64_t seq) {
    static uint8_t entry[2 * ENTRY_BYTES_MAX];
    uint8_t name[8];
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        const row *r = &rows[i];
        uint16_t key_length = r->key.mv_size;
        require(size + 2 + key_length + r->value.mv_size <= sizeof entry, "a record too large");
        memcpy(entry + size, &key_length, 2);
        memcpy(entry + size + 2, r->key.mv_data, key_length);
        memcpy(entry + size + 2 + key_length, r->value.mv_data, r->value.mv_size);
        size += 2 + key_length + r->value.mv_size;
        if (size < ENTRY_BYTES_MAX && i + 1 < count) continue;
        big_endian(name, seq + i);
        MDB_val key = {8, name}, value = {size, entry};
        check(mdb_put(txn, history, &key, &value, MDB_APPEND), "mdb_put");
        size = 0;
    }
    big_endian(name, seq + count - 1);
    MDB_val key = {8, name}, time = {8, name};
    check(mdb_put(txn, commits, &key, &time, MDB_APPEND), "mdb_put");
}

static void run_put(char **arg) {
    unsigned flags = strcmp(arg[4], "nosync") == 0 ? MDB_NOSYNC : 0;
    int sorted = strcmp(arg[5], "sorted") == 0, both = strcmp(arg[6], "both") == 0;
    MDB_env *env = open_env(arg[0], flags);
    MDB_dbi db = open_db(env, arg[1], 0), history = 0, commits = 0;
    if (both) {
        history = open_db(env, "bench_history", MDB_CREATE);
        commits = open_db(env, "bench_commits", MDB_CREATE);
    }
    table puts = read_table(arg[2], 1);
    size_t per_txn = strtoul(arg[3], NULL, 10), calls = 0;
    double *seconds = calloc(puts.count / per_txn + 1, sizeof *seconds);
    usage from = usage_now();
    for (size_t start = 0; start < puts.count; start += per_txn) {
        if (start == per_txn) { /* the first transaction was the warm-up */
            calls = 0;
            reset_peak_memory();
            from = usage_now();
        }
        double began = now(CLOCK_MONOTONIC);
        size_t count = start + per_txn < puts.count ? per_txn : puts.count - start;
        row *rows = puts.rows + start;
        MDB_txn *txn = begin(env, 0);
        if (sorted) qsort(rows, count, sizeof *rows, by_key);
        for (size_t i = 0; i < count; i++)
            check(mdb_put(txn, db, &rows[i].key, &rows[i].value, 0), "mdb_put");
        if (both) put_history(txn, history, commits, rows, count, start + 1);
        check(mdb_txn_commit(txn), "mdb_txn_commit");
        seconds[calls++] = now(CLOCK_MONOTONIC) - began;
    }
    require(puts.count > per_txn, "nothing is left after the warm-up");
    report(from, usage_now(), puts.count - per_txn, seconds, calls);
    mdb_env_close(env);
}

static void run_load(char **arg) {
    MDB_env *env = open_env(arg[0], 0);
    MDB_dbi db = open_db(env, arg[1], MDB_CREATE);
    table puts = read_table(arg[2], 1);
    size_t per_txn = strtoul(arg[3], NULL, 10);
    reset_peak_memory();
    usage from = usage_now();
    for (size_t start = 0; start < puts.count; start += per_txn) {
        size_t end = start + per_txn < puts.count ? start + per_txn : puts.count;
        MDB_txn *txn = begin(env, 0);
        for (size_t i = start; i < end; i++)
            check(mdb_put(txn, db, &puts.rows[i].key, &puts.rows[i].value, MDB_APPEND), "mdb_put");
        check(mdb_txn_commit(txn), "mdb_txn_commit");
    }
    report(from, usage_now(), puts.count, NULL, 0);
    mdb_env_close(env);
}

int main(int count, char **arg) {
    if (count == 9 && strcmp(arg[1], "get") == 0) run_get(arg + 2);
    else if (count == 9 && strcmp(arg[1], "put") == 0) run_put(arg + 2);
    else if (count == 6 && strcmp(arg[1], "load") == 0) run_load(arg + 2);
    else require(0, "usage: see the head of clmdb.c");
    return 0;
}
