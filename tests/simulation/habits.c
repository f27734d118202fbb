/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a run does much of: drawn from the seed, once for all its lives.
 *
 * A program that does a bit of everything gets to few of the places where two
 * rare things meet.  So most runs leave some out and do others ten times as
 * often.
 */
#include "fibers.h"
#include "world.h"

/* The program that does a bit of everything. */
static const struct habits usual = {
    .weights = { [DO_REQUEST] = 260, [DO_REAP] = 120, [DO_RESIZE] = 4,
                 [DO_FREEZE] = 2, [DO_CLOSE] = 3, [DO_INTRUDE] = 1,
                 [DO_DRAIN] = 6, [DO_REST] = 4 },
    .hot = 12,
    .flushes = 6,
    .flush_end_once_in = 100,
    .whole_once_in = 12,
    .fua_once_in = 6,
    .grow_once_in = 40,
    .removals = 3,
    .end_soon_once_in = 12,
    .lives = 9,
    .steps = 500,
};

/* Volumes made and removed all the time, by processes that die in the middle
 * of it. */
static void be_maker(struct habits *habits)
{
    habits->weights[DO_CLOSE] = 60;
    habits->removals = 2 + (unsigned)random_below(8);
    habits->end_soon_once_in = 2;
    habits->lives = 24;
    habits->steps = 60;
    habits->births = (unsigned)random_below(40);
}

/* Sizes that change, with little that makes the change durable. */
static void be_resizer(struct habits *habits)
{
    habits->hot = random_once_in(2) ? HOT : 1 + (unsigned)random_below(3);
    habits->weights[DO_RESIZE] = 60;
    habits->flushes = (unsigned)random_below(3);
    habits->fua_once_in = 40;
    habits->grow_once_in = 4;
    habits->end_soon_once_in = 5;
    habits->lives = 16;
    habits->steps = 150;
}

/* Volumes opened and closed, by one host and the other; layers frozen. */
static void be_opener(struct habits *habits)
{
    habits->weights[DO_CLOSE] = 20 + (unsigned)random_below(60);
    habits->weights[DO_FREEZE] = 1u << random_below(6);
    habits->removals = (unsigned)random_below(2);
    habits->flushes = 12;
    habits->flush_end_once_in = 10;
    habits->lives = 16;
    habits->steps = 200;
}

/* Few objects and many flushes: what a failed sync takes down must meet what
 * is under way. */
static void be_flusher(struct habits *habits)
{
    habits->hot = 1 + (unsigned)random_below(3);
    habits->flushes = 6 + (unsigned)random_below(20);
    habits->whole_once_in = 2 + (unsigned)random_below(3);
    habits->fua_once_in = random_once_in(2) ? 2 : 6;
    habits->one_volume = true;
}

/* Pages written all the time. */
static void be_folder(struct habits *habits)
{
    habits->hot = HOT;
    habits->weights[DO_FREEZE] = 10u << random_below(4);
    habits->flushes = 6 + (unsigned)random_below(20);
    habits->steps = 300;
    habits->one_volume = random_once_in(2);
}

/* Large journal records. */
static void be_writer(struct habits *habits)
{
    habits->hot = HOT;
    habits->weights[DO_RESIZE] = 0;
    habits->weights[DO_CLOSE] = 0;
    habits->weights[DO_FREEZE] = 1u << random_below(5);
    habits->flushes = 1 + (unsigned)random_below(3);
    habits->fua_once_in = 40;
    habits->steps = 300;
}

/* Hundreds of requests between two crashes. */
static void be_patient(struct habits *habits)
{
    habits->flush_end_once_in = 2000;
    habits->end_soon_once_in = 200;
    habits->removals = 1;
    habits->lives = 6;
    habits->steps = 800;
    habits->patience = 2;
}

/* Each thing as often as chance has it. */
static void be_odd(struct habits *habits)
{
    static const unsigned factors[] = { 0, 1, 1, 4, 16 };

    for (unsigned i = DO_RESIZE; i < ACTIONS; i++) {
        habits->weights[i] *= factors[random_below(G_N_ELEMENTS(factors))];
    }
    habits->hot = 1 + (unsigned)random_below(HOT);
    habits->flushes = (unsigned)random_below(20);
    habits->flush_end_once_in = 4u << random_below(6);
    habits->whole_once_in = 2u << random_below(5);
    habits->fua_once_in = 2u << random_below(5);
    habits->grow_once_in = 4u << random_below(5);
    habits->removals = (unsigned)random_below(12);
    habits->end_soon_once_in = 2u << random_below(6);
    habits->steps = 50u << random_below(6);
}

typedef void be(struct habits *habits);

static void be_usual(struct habits *habits)
{
}

static const struct {
    const char *name;
    be *be;
} known[] = {
    { "usual", be_usual },   { "maker", be_maker },
    { "resizer", be_resizer }, { "opener", be_opener },
    { "flusher", be_flusher }, { "folder", be_folder },
    { "writer", be_writer }, { "odd", be_odd },
    { "patient", be_patient },          /* slow: only where it is asked for */
};

static be *find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        if (g_strcmp0(name, known[i].name) == 0) {
            return known[i].be;
        }
    }
    return NULL;
}

bool habits_are_known(const char *name)
{
    return find(name) != NULL;
}

static be *draw(bool may_err, enum fault faults)
{
    static be *const any[] = { be_maker, be_resizer, be_opener, be_folder,
                               be_writer, be_odd };
    static be *const where_syncs_fail[] = { be_flusher, be_flusher,
                                            be_folder };
    static be *const where_names_fail[] = { be_opener, be_opener, be_maker,
                                            be_folder };

    if (may_err && faults == FAULT_SYNC && random_below(4)) {
        return where_syncs_fail[random_below(3)];
    }
    if (may_err && faults == FAULT_NAME && random_below(4)) {
        return where_names_fail[random_below(4)];
    }
    return random_once_in(2) ? any[random_below(G_N_ELEMENTS(any))] : be_usual;
}

void habits_draw(struct habits *habits, bool may_err, enum fault faults,
                 const char *wanted)
{
    be *drawn = draw(may_err, faults);

    *habits = usual;
    habits->hot = random_once_in(2) ? 4 : random_once_in(2) ? 12 : HOT;
    habits->flushes = random_once_in(3) ? 1 : 6;
    (wanted ? find(wanted) : drawn)(habits);
    if (random_once_in(8)) {
        habits->full_once_in = 50 + (unsigned)random_below(200);
    }
}
