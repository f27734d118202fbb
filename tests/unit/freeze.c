/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy-on-write, through the hook that freezes a volume's current layer, as
 * snapshots will: what is copied, what isn't, and that the two-object rule
 * loses no byte however deep the layers lie.
 */
#include "fixture.h"

#include "volume/volume.h"

#define OBJECT (4 * MIB)
#define BLOCK 4096u

struct rig {
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
};

static void rig_begin(struct rig *rig, const char *kind, uint32_t object_bytes)
{
    fixture_begin(&rig->fixture, kind);
    fixture_create(&rig->fixture, "v", 4 * OBJECT, object_bytes);
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

static void rig_end(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_end(&rig->fixture);
}

static void rig_reopen(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_reopen(&rig->fixture);
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

/* What the current layer takes. */
static uint64_t exclusive(struct rig *rig)
{
    archip_usage usage;

    assert_ok(archip_flush(rig->queue));
    assert_ok(archip_volume_get_usage(rig->volume, &usage));
    return usage.exclusive_bytes;
}

static unsigned flags_at(struct rig *rig, uint64_t offset)
{
    archip_extent extent;

    assert_ok(archip_extents(rig->queue, offset, 1, &extent, 1));
    return extent.flags;
}

static void test_aligned(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 0);
    fixture_fill(rig.queue, 0, OBJECT, 1);
    assert_ok(volume_freeze(rig.volume));
    g_assert_cmpuint(exclusive(&rig), ==, 0);
    g_assert_cmpuint(flags_at(&rig, 0), ==,
                     ARCHIP_EXTENT_DATA | ARCHIP_EXTENT_SHARED);
    fixture_fill(rig.queue, 8 * BLOCK, BLOCK, 2);
    g_assert_cmpuint(exclusive(&rig), ==, BLOCK);
    g_assert_cmpuint(flags_at(&rig, 8 * BLOCK), ==, ARCHIP_EXTENT_DATA);
    g_assert_cmpuint(flags_at(&rig, 7 * BLOCK), ==,
                     ARCHIP_EXTENT_DATA | ARCHIP_EXTENT_SHARED);
    fixture_fill(rig.queue, 100 * BLOCK, 16 * BLOCK, 3);
    g_assert_cmpuint(exclusive(&rig), ==, 17 * BLOCK);
    rig_reopen(&rig);
    fixture_expect(rig.queue, 0, 8 * BLOCK, 1);
    fixture_expect(rig.queue, 8 * BLOCK, BLOCK, 2);
    fixture_expect(rig.queue, 9 * BLOCK, 91 * BLOCK, 1);
    fixture_expect(rig.queue, 100 * BLOCK, 16 * BLOCK, 3);
    fixture_expect(rig.queue, 116 * BLOCK, OBJECT - 116 * BLOCK, 1);
    rig_end(&rig);
}

/* A smaller write copies its blocks, and only them. */
static void test_unaligned(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 0);
    fixture_fill(rig.queue, 0, OBJECT, 1);
    assert_ok(volume_freeze(rig.volume));
    fixture_fill(rig.queue, 8 * BLOCK + 100, 10, 2);
    g_assert_cmpuint(exclusive(&rig), ==, BLOCK);
    fixture_fill(rig.queue, 20 * BLOCK + 1, 2 * BLOCK, 3);
    g_assert_cmpuint(exclusive(&rig), ==, 4 * BLOCK);
    fixture_expect(rig.queue, 0, 8 * BLOCK + 100, 1);
    fixture_expect(rig.queue, 8 * BLOCK + 100, 10, 2);
    fixture_expect(rig.queue, 8 * BLOCK + 110, 12 * BLOCK - 109, 1);
    fixture_expect(rig.queue, 20 * BLOCK + 1, 2 * BLOCK, 3);
    fixture_expect(rig.queue, 22 * BLOCK + 1, OBJECT - 22 * BLOCK - 1, 1);
    rig_end(&rig);
}

/* Over nothing: the rest of the block is zeroes. */
static void test_hole(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 0);
    fixture_fill(rig.queue, OBJECT, BLOCK, 1);
    assert_ok(volume_freeze(rig.volume));
    fixture_fill(rig.queue, OBJECT + 2 * BLOCK + 7, 9, 2);
    fixture_fill(rig.queue, 3 * OBJECT + 7, 9, 3);
    g_assert_cmpuint(exclusive(&rig), ==, 2 * BLOCK);
    fixture_expect(rig.queue, OBJECT, BLOCK, 1);
    fixture_expect(rig.queue, OBJECT + BLOCK, BLOCK + 7, 0);
    fixture_expect(rig.queue, OBJECT + 2 * BLOCK + 7, 9, 2);
    fixture_expect(rig.queue, OBJECT + 2 * BLOCK + 16, OBJECT, 0);
    fixture_expect(rig.queue, 3 * OBJECT + 7, 9, 3);
    rig_end(&rig);
}

/* A discard hides what is frozen, also below a later layer. */
static void test_discard(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 0);
    fixture_fill(rig.queue, 0, 2 * OBJECT, 1);
    assert_ok(volume_freeze(rig.volume));
    assert_ok(archip_discard(rig.queue, 10 * BLOCK, BLOCK));
    assert_ok(archip_discard(rig.queue, OBJECT, OBJECT));
    g_assert_cmpuint(exclusive(&rig), ==, 0);
    fixture_fill(rig.queue, 12 * BLOCK, BLOCK, 2);
    assert_ok(volume_freeze(rig.volume));
    fixture_fill(rig.queue, 14 * BLOCK + 1, 1, 3);
    fixture_fill(rig.queue, OBJECT + 5, 1, 4);
    rig_reopen(&rig);
    fixture_expect(rig.queue, 0, 10 * BLOCK, 1);
    fixture_expect(rig.queue, 10 * BLOCK, BLOCK, 0);
    fixture_expect(rig.queue, 11 * BLOCK, BLOCK, 1);
    fixture_expect(rig.queue, 12 * BLOCK, BLOCK, 2);
    fixture_expect(rig.queue, 13 * BLOCK, BLOCK + 1, 1);
    fixture_expect(rig.queue, 14 * BLOCK + 1, 1, 3);
    fixture_expect(rig.queue, 14 * BLOCK + 2, OBJECT - 14 * BLOCK - 2, 1);
    fixture_expect(rig.queue, OBJECT, 5, 0);
    fixture_expect(rig.queue, OBJECT + 5, 1, 4);
    fixture_expect(rig.queue, OBJECT + 6, OBJECT - 6, 0);
    rig_end(&rig);
}

/* One block in each of many layers: copying is at most half an object. */
static void test_deep(const void *kind)
{
    enum { DEPTH = 40, BLOCKS = 64 };
    struct rig rig;

    rig_begin(&rig, kind, BLOCKS * BLOCK);
    fixture_fill(rig.queue, 0, BLOCKS * BLOCK, 100);
    for (unsigned i = 0; i < DEPTH; i++) {
        assert_ok(volume_freeze(rig.volume));
        fixture_fill(rig.queue, i * 7 % BLOCKS * BLOCK, BLOCK,
                     (uint8_t)(i + 1));
        g_assert_cmpuint(exclusive(&rig), <=, (BLOCKS / 2 + 1) * BLOCK);
    }
    rig_reopen(&rig);
    for (unsigned block = 0; block < BLOCKS; block++) {
        uint8_t byte = 100;

        for (unsigned i = 0; i < DEPTH; i++) {
            byte = i * 7 % BLOCKS == block ? (uint8_t)(i + 1) : byte;
        }
        fixture_expect(rig.queue, block * BLOCK, BLOCK, byte);
    }
    rig_end(&rig);
}

/* A shrink cuts what is frozen as well. */
static void test_shrink(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 0);
    fixture_fill(rig.queue, 0, 2 * OBJECT, 1);
    assert_ok(volume_freeze(rig.volume));
    assert_ok(archip_volume_resize(rig.volume, 5 * BLOCK + 512,
                                   ARCHIP_RESIZE_SHRINK));
    assert_ok(archip_volume_resize(rig.volume, 4 * OBJECT, 0));
    fixture_expect(rig.queue, 0, 5 * BLOCK + 512, 1);
    fixture_expect(rig.queue, 5 * BLOCK + 512, OBJECT, 0);
    rig_reopen(&rig);
    fixture_expect(rig.queue, 0, 5 * BLOCK + 512, 1);
    fixture_expect(rig.queue, 5 * BLOCK + 512, 2 * OBJECT, 0);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add("/freeze/aligned", test_aligned);
    fixture_add("/freeze/unaligned", test_unaligned);
    fixture_add("/freeze/hole", test_hole);
    fixture_add("/freeze/discard", test_discard);
    fixture_add("/freeze/deep", test_deep);
    fixture_add("/freeze/shrink", test_shrink);
    return g_test_run();
}
