/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies in the dir store, whatever it is, and putting it elsewhere: for
 * check and repair.
 *
 * A *stray* is what no other call can name: a file of another name or sort than
 * dir-format.h has.  What is set aside goes to the folder DIR_ASIDE by one
 * rename(), under its path with DIR_ASIDE_SLASH for each '/'; where that is
 * taken, ".2", ".3", ... follow.
 */
#include "store/dir-internal.h"

#include "base/error.h"
#include "base/sys.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

void dir_look(struct store *store, bool only)
{
    struct dir_store *dir = store->state;

    g_atomic_int_set(&dir->look_only, only);
    dir_cache_age(dir);
}

/* S_IFREG and the like; 0: it went meanwhile; or -errno.  What can't be told
 * must not be taken for a stray, which is set aside. */
static int sort_of(int folder_fd, const char *name)
{
    struct stat status;

    if (sys.fstatat(folder_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    return (int)(status.st_mode & S_IFMT);
}

/* "XX": the first two digits of an id. */
static bool is_part(const char *name)
{
    return strlen(name) == 2 && strspn(name, "0123456789abcdef") == 2;
}

/* --- Listing ids ---------------------------------------------------------- */

struct ids {
    char part[3];
    int (*each)(const struct id128 *id, void *opaque);
    void *opaque;
    int answer;                 /* non-zero: `each` ended it */
};

static int list_id(int folder_fd, const char *name, void *opaque)
{
    struct ids *ids = opaque;
    struct id128 id;
    int sort;

    if (!id128_parse(name, &id) || strncmp(name, ids->part, 2) != 0) {
        return 0;
    }
    sort = sort_of(folder_fd, name);
    if (sort != S_IFDIR) {
        return MIN(sort, 0);
    }
    ids->answer = ids->each(&id, ids->opaque);
    return ids->answer;
}

static int list_part(int folder_fd, const char *name, void *opaque)
{
    struct ids *ids = opaque;
    int sort = is_part(name) ? sort_of(folder_fd, name) : 0;

    if (sort != S_IFDIR) {
        return MIN(sort, 0);
    }
    g_strlcpy(ids->part, name, sizeof(ids->part));
    return dir_walk(folder_fd, name, list_id, ids);
}

int dir_list_ids(struct store *store, enum store_kind kind,
                 int (*each)(const struct id128 *id, void *opaque),
                 void *opaque, GError **error)
{
    const char *folder = kind == STORE_BLOCK ? "blocks" : "maps";
    struct dir_store *dir = store->state;
    struct ids ids = {.each = each, .opaque = opaque};
    int result = dir_walk(dir->root_fd, folder, list_part, &ids);

    if (ids.answer != 0) {
        return ids.answer;
    }
    return result < 0 ? error_set_errno(error, -result, "cannot list %s/%s",
                                        dir->path, folder)
                      : 0;
}

/* --- Listing sizes -------------------------------------------------------- */

struct sizes {
    struct store_object object; /* kind and id, and one number after another */
    const char *fan;
    int (*each)(uint64_t number, uint64_t size_bytes, void *opaque);
    void *opaque;
    int answer;
};

/* Is it the one place where the object of that number is looked for? */
static bool is_at_its_place(const struct sizes *sizes, const char *name)
{
    char path[DIR_PATH_BYTES], end[DIR_PATH_BYTES];

    dir_object_path(&sizes->object, path);
    if (sizes->fan) {
        snprintf(end, sizeof(end), "/%.20s/%.20s", sizes->fan, name);
    } else {
        snprintf(end, sizeof(end), "/%.40s", name);
    }
    return g_str_has_suffix(path, end);
}

static int list_size(int folder_fd, const char *name, struct sizes *sizes)
{
    struct stat status;

    if (!is_at_its_place(sizes, name)) {
        return 0;
    }
    if (sys.fstatat(folder_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISREG(status.st_mode)) {
        return 0;
    }
    sizes->answer = sizes->each(sizes->object.number,
                                (uint64_t)status.st_size, sizes->opaque);
    return sizes->answer;
}

static int list_size_numbered(int folder_fd, const char *name, void *opaque)
{
    struct sizes *sizes = opaque;

    return dir_parse_number(name, &sizes->object.number)
               ? list_size(folder_fd, name, sizes)
               : 0;
}

static int list_size_fan(int folder_fd, const char *name, void *opaque)
{
    struct sizes *sizes = opaque;
    uint64_t fan;
    int sort = dir_parse_number(name, &fan) ? sort_of(folder_fd, name) : 0;

    if (sort != S_IFDIR) {
        return MIN(sort, 0);
    }
    sizes->fan = name;
    return dir_walk(folder_fd, name, list_size_numbered, sizes);
}

static int list_size_journal(int folder_fd, const char *name, void *opaque)
{
    static const char prefix[] = "journal.";
    struct sizes *sizes = opaque;

    return g_str_has_prefix(name, prefix) &&
                   dir_parse_number(name + strlen(prefix),
                                    &sizes->object.number)
               ? list_size(folder_fd, name, sizes)
               : 0;
}

int dir_list_sizes(struct store *store, enum store_kind kind,
                   const struct id128 *id,
                   int (*each)(uint64_t number, uint64_t size_bytes,
                               void *opaque),
                   void *opaque, GError **error)
{
    struct sizes sizes = {{kind, *id, 0}, NULL, each, opaque, 0};
    char path[DIR_PATH_BYTES];
    int fd, result;

    dir_id_path(kind, id, path);
    fd = dir_open(store->state, path, O_RDONLY | O_DIRECTORY);
    result = fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
    if (fd >= 0) {
        result = dir_walk(fd, kind == STORE_PAGE ? "pages" : ".",
                          kind == STORE_JOURNAL ? list_size_journal
                                                : list_size_fan,
                          &sizes);
        result = result == -ENOTDIR || result == -ELOOP ? 0 : result;
        sys.close(fd);
    }
    if (sizes.answer != 0) {
        return sizes.answer;
    }
    return result < 0 ? error_set_errno(error, -result, "cannot list %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

/* --- Strays --------------------------------------------------------------- */

struct strays {
    struct dir_store *dir;
    GString *path;              /* of the folder that is walked */
    int depth;
    int (*each)(const char *stray, bool litter, void *opaque);
    void *opaque;
    int answer;
};

/* Nobody has it locked: the process that wrote it is dead.  At the top one that
 * has another name, too, is the store's own file, which we may have locked. */
static bool is_abandoned(int folder_fd, const char *name, bool at_top)
{
    int fd = TEMP_FAILURE_RETRY(sys.openat(
        folder_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0));
    struct stat status;
    bool abandoned;

    if (fd < 0) {
        return false;
    }
    abandoned = TEMP_FAILURE_RETRY(sys.flock(fd, LOCK_SH | LOCK_NB)) == 0 ||
                (at_top && sys.fstat(fd, &status) == 0 && status.st_nlink > 1);
    sys.close(fd);
    return abandoned;
}

static int report_stray(struct strays *strays, const char *name, bool litter)
{
    g_autofree char *path =
        strays->path->len ? g_strdup_printf("%s/%s", strays->path->str, name)
                          : g_strdup(name);

    strays->answer = strays->each(path, litter, strays->opaque);
    return strays->answer;
}

/* What a name is, where it is found. */
enum place { PLACE_STRAY, PLACE_FILE, PLACE_FOLDER, PLACE_IGNORED };

static enum place place_at_top(const char *name)
{
    if (strcmp(name, "lost+found") == 0 || strcmp(name, DIR_ASIDE) == 0) {
        return PLACE_IGNORED;
    }
    if (strcmp(name, DIR_FORMAT_NAME) == 0 || strcmp(name, DIR_RESERVE) == 0) {
        return PLACE_FILE;
    }
    return strcmp(name, "names") == 0 || strcmp(name, "intents") == 0 ||
                   strcmp(name, "maps") == 0 || strcmp(name, "blocks") == 0
               ? PLACE_FOLDER
               : PLACE_STRAY;
}

static enum place place_of_number(const struct strays *strays,
                                  const char *name)
{
    const char *fan = strrchr(strays->path->str, '/') + 1;
    char number_text[20], fan_text[20];
    uint64_t number;

    if (!dir_parse_number(name, &number)) {
        return PLACE_STRAY;
    }
    snprintf(number_text, sizeof(number_text), "%" PRIx64, number);
    snprintf(fan_text, sizeof(fan_text), "%03" PRIx64, number >> DIR_FAN_BITS);
    return strcmp(name, number_text) == 0 && strcmp(fan, fan_text) == 0
               ? PLACE_FILE
               : PLACE_STRAY;
}

static enum place place_of_fan(const char *name)
{
    char text[20];
    uint64_t fan;

    if (!dir_parse_number(name, &fan)) {
        return PLACE_STRAY;
    }
    snprintf(text, sizeof(text), "%03" PRIx64, fan);
    return strcmp(name, text) == 0 ? PLACE_FOLDER : PLACE_STRAY;
}

static enum place place_of_map_file(const char *name)
{
    uint64_t epoch;

    if (strcmp(name, "pages") == 0) {
        return PLACE_FOLDER;
    }
    if (strcmp(name, "header") == 0 || strcmp(name, "lock") == 0 ||
        strcmp(name, "readers") == 0) {
        return PLACE_FILE;
    }
    return g_str_has_prefix(name, "journal.") && strlen(name) == 24 &&
                   dir_parse_number(name + 8, &epoch)
               ? PLACE_FILE
               : PLACE_STRAY;
}

static enum place place_of(const struct strays *strays, const char *name)
{
    const char *path = strays->path->str;
    bool blocks = g_str_has_prefix(path, "blocks");
    struct id128 id;

    if (strays->depth == 0) {
        return place_at_top(name);
    }
    if (strcmp(path, "names") == 0) {
        return dir_name_is_safe(name) ? PLACE_FILE : PLACE_STRAY;
    }
    if (strcmp(path, "intents") == 0) {
        return id128_parse(name, &id) ? PLACE_FILE : PLACE_STRAY;
    }
    switch (strays->depth) {
    case 1:
        return is_part(name) ? PLACE_FOLDER : PLACE_STRAY;
    case 2:
        return id128_parse(name, &id) &&
                       strncmp(name, strrchr(path, '/') + 1, 2) == 0
                   ? PLACE_FOLDER
                   : PLACE_STRAY;
    case 3:
        return blocks ? place_of_fan(name) : place_of_map_file(name);
    case 4:
        return blocks ? place_of_number(strays, name) : place_of_fan(name);
    default:
        return place_of_number(strays, name);
    }
}

static int list_stray(int folder_fd, const char *name, void *opaque)
{
    struct strays *strays = opaque;
    enum place place = place_of(strays, name);
    gsize length = strays->path->len;
    int result, sort;

    if (place == PLACE_IGNORED) {
        return 0;
    }
    sort = sort_of(folder_fd, name);
    if (sort <= 0) {
        return sort;
    }
    if (g_str_has_prefix(name, DIR_TEMPORARY) && sort == S_IFREG) {
        return is_abandoned(folder_fd, name, strays->depth == 0)
                   ? report_stray(strays, name, true)
                   : 0;
    }
    if (place == PLACE_FILE && sort == S_IFREG) {
        return 0;
    }
    if (place != PLACE_FOLDER || sort != S_IFDIR) {
        return report_stray(strays, name, false);
    }
    g_string_append_printf(strays->path, "%s%s", length ? "/" : "", name);
    strays->depth++;
    result = dir_walk(folder_fd, name, list_stray, strays);
    strays->depth--;
    g_string_truncate(strays->path, length);
    return result;
}

int dir_list_strays(struct store *store,
                    int (*each)(const char *stray, bool litter, void *opaque),
                    void *opaque, GError **error)
{
    g_autoptr(GString) path = g_string_new(NULL);
    struct strays strays = {store->state, path, 0, each, opaque, 0};
    int result = dir_walk(strays.dir->root_fd, ".", list_stray, &strays);

    if (strays.answer != 0) {
        return strays.answer;
    }
    return result < 0 ? error_set_errno(error, -result, "cannot list %s",
                                        strays.dir->path)
                      : 0;
}

/* --- Trimming ------------------------------------------------------------- */

int dir_trim(struct store *store, const struct store_object *object,
             uint64_t size_bytes, GError **error)
{
    char path[DIR_PATH_BYTES];
    int fd, result = 0;

    dir_object_path(object, path);
    fd = dir_open(store->state, path, O_WRONLY);
    if (fd < 0) {
        result = fd;
    } else {
        if (TEMP_FAILURE_RETRY(sys.ftruncate(fd, (off_t)size_bytes)) < 0 ||
            TEMP_FAILURE_RETRY(sys.fsync(fd)) < 0) {
            result = -errno;
        }
        sys.close(fd);
    }
    return result < 0 ? error_set_errno(error, -result, "cannot cut %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

/* --- Setting aside -------------------------------------------------------- */

static int thing_path(const struct store_thing *thing, GString *path,
                      GError **error)
{
    char text[DIR_PATH_BYTES];
    int result = 0;

    switch (thing->type) {
    case STORE_THING_OBJECT:
        dir_object_path(&thing->object, text);
        break;
    case STORE_THING_SET:
        dir_id_path(thing->object.kind, &thing->object.id, text);
        break;
    case STORE_THING_RECORD:
        result = dir_record_path(&thing->record, text, error);
        break;
    case STORE_THING_STRAY:
        g_string_assign(path, thing->stray);
        return 0;
    }
    if (result == 0) {
        g_string_assign(path, text);
    }
    return result;
}

/* Its name among what was set aside. */
static char *aside_name(const char *path)
{
    char *name = g_strdelimit(g_strdup(path), "/", DIR_ASIDE_SLASH);

    if (strlen(name) > 240) {
        g_autofree char *sum =
            g_compute_checksum_for_string(G_CHECKSUM_SHA256, name, -1);

        g_free(name);
        name = g_strdup_printf("stray%c%s", DIR_ASIDE_SLASH, sum);
    }
    return name;
}

static int make_aside(struct dir_store *dir)
{
    struct dir_loan loan = {0};
    int result;

    do {
        result = sys.mkdirat(dir->root_fd, DIR_ASIDE, 0700) < 0 ? -errno : 0;
    } while (dir_reserve_lend(dir, &loan, result));
    return result == -EEXIST ? 0 : result;
}

/* Who made it may have failed to sync that, or died before. */
static int open_aside_durably(struct dir_store *dir)
{
    int result = make_aside(dir);

    if (result < 0) {
        return result;
    }
    if (TEMP_FAILURE_RETRY(sys.fsync(dir->root_fd)) < 0) {
        return -errno;
    }
    return dir_open(dir, DIR_ASIDE, O_RDONLY | O_DIRECTORY);
}

/* A stray's path may be longer than any of ours. */
static int open_folder_of(struct dir_store *dir, const char *path,
                          const char **leaf)
{
    const char *slash = strrchr(path, '/');
    g_autofree char *folder = slash ? g_strndup(path, slash - path)
                                    : g_strdup(".");

    *leaf = slash ? slash + 1 : path;
    return strlen(folder) < DIR_PATH_BYTES
               ? dir_open(dir, folder, O_RDONLY | O_DIRECTORY)
               : -ENAMETOOLONG;
}

static void forget(struct dir_store *dir, const struct store_thing *thing)
{
    if (thing->type == STORE_THING_OBJECT) {
        dir_file_removed(dir, &thing->object);
    } else if (thing->type == STORE_THING_SET) {
        dir_files_removed(dir, thing->object.kind, &thing->object.id);
    }
}

/* A rename that doesn't replace.  Only if it happened, the thing's open files
 * are of another life: else they may be in use, and not synced yet. */
static int move(struct dir_store *dir, const struct store_thing *thing,
                int from_fd, const char *from, int to_fd, const char *to)
{
    struct dir_loan loan = {0};
    int result;

    do {
        result = sys.renameat2(from_fd, from, to_fd, to, RENAME_NOREPLACE) < 0
                     ? -errno
                     : 0;
    } while (dir_reserve_lend(dir, &loan, result));
    if (result == 0) {
        forget(dir, thing);
    }
    return result;
}

static int move_aside(struct dir_store *dir, const struct store_thing *thing,
                      int folder_fd, const char *leaf, int aside_fd,
                      const char *name)
{
    g_autofree char *free_name = g_strdup(name);
    int result;

    for (unsigned copy = 2;; copy++) {
        result = move(dir, thing, folder_fd, leaf, aside_fd, free_name);
        if (result != -EEXIST) {
            break;
        }
        g_free(free_name);
        free_name = g_strdup_printf("%s.%u", name, copy);
    }
    /* If nothing is there an earlier try may have moved it, and not synced. */
    result = result == -ENOENT ? 0 : result;
    if (result == 0 && (TEMP_FAILURE_RETRY(sys.fsync(aside_fd)) < 0 ||
                        TEMP_FAILURE_RETRY(sys.fsync(folder_fd)) < 0)) {
        result = -errno;
    }
    return result;
}

int dir_set_aside(struct store *store, const struct store_thing *thing,
                  GError **error)
{
    struct dir_store *dir = store->state;
    g_autoptr(GString) path = g_string_new(NULL);
    g_autofree char *name = NULL;
    int aside_fd = -1, folder_fd, result = thing_path(thing, path, error);
    const char *leaf;

    if (result < 0) {
        return result;
    }
    folder_fd = open_folder_of(dir, path->str, &leaf);
    if (folder_fd == -ENOENT) {
        return 0;
    }
    result = folder_fd;
    if (result >= 0) {
        result = aside_fd = open_aside_durably(dir);
    }
    if (result >= 0) {
        name = aside_name(path->str);
        result = move_aside(dir, thing, folder_fd, leaf, aside_fd, name);
        sys.close(aside_fd);
    }
    if (folder_fd >= 0) {
        sys.close(folder_fd);
    }
    return result < 0 ? error_set_errno(error, -result,
                                        "cannot move %s/%s to " DIR_ASIDE,
                                        dir->path, path->str)
                      : 0;
}

static int move_back(struct dir_store *dir, const struct store_thing *thing,
                     int aside_fd, const char *name, const char *path)
{
    const char *leaf;
    struct dir_loan loan = {0};
    int folder_fd, result;

    do {
        result = dir_make_parents(dir, path);
    } while (dir_reserve_lend(dir, &loan, result));
    if (result < 0) {
        return result;
    }
    folder_fd = dir_open_parent(dir, path, &leaf);
    if (folder_fd < 0) {
        return folder_fd;
    }
    /* An empty folder is in nobody's way. */
    sys.unlinkat(folder_fd, leaf, AT_REMOVEDIR);
    result = move(dir, thing, aside_fd, name, folder_fd, leaf);
    sys.close(folder_fd);
    return result;
}

/* All folders to where it is now. */
static int sync_back(struct dir_store *dir, int aside_fd, const char *path)
{
    int result;

    dir_folders_making(dir, path);
    dir_folders_made(dir, path);
    result = dir_folders_sync(dir, path);
    return result == 0 && TEMP_FAILURE_RETRY(sys.fsync(aside_fd)) < 0
               ? -errno
               : result;
}

int dir_take_back(struct store *store, const struct store_thing *thing,
                  GError **error)
{
    struct dir_store *dir = store->state;
    g_autoptr(GString) path = g_string_new(NULL);
    g_autofree char *name = NULL;
    struct stat status;
    int fd, result;

    g_assert(thing->type == STORE_THING_OBJECT ||
             thing->type == STORE_THING_SET);
    result = thing_path(thing, path, error);
    if (result < 0) {
        return result;
    }
    name = aside_name(path->str);
    fd = result = dir_open(dir, DIR_ASIDE, O_RDONLY | O_DIRECTORY);
    if (fd >= 0) {
        result = sys.fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0
                     ? -errno
                     : move_back(dir, thing, fd, name, path->str);
        /* As in move_aside(). */
        if (result == 0 || result == -ENOENT) {
            int synced = sync_back(dir, fd, path->str);

            result = synced < 0 ? synced : result;
        }
        sys.close(fd);
    }
    return result < 0 ? error_set_errno(error, -result,
                                        "cannot take %s back from %s/"
                                        DIR_ASIDE, path->str, dir->path)
                      : 0;
}
