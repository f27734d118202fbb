/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests of every kind and alignment through several queues, against
 * a model in memory that is compared byte by byte: see property.h.
 *
 * The seed is printed; it comes from --seed, $ARCHIPELAGO_SEED, or chance.
 */
#include "property.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void read_options(int argc, char **argv, struct setup *setup)
{
    gint64 seed = -1, size = 8 << 20;
    gint runs = 1, rounds = 1000, ops = 160, seconds = 4, queues = 3,
         depth = 12, object = 1 << 16;
    gchar *store = NULL;
    const GOptionEntry entries[] = {
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "First seed", "N"},
        {"runs", 0, 0, G_OPTION_ARG_INT, &runs, "Seeds to try", "N"},
        {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "Rounds of a run", "N"},
        {"ops", 0, 0, G_OPTION_ARG_INT, &ops, "Requests of a round", "N"},
        {"seconds", 0, 0, G_OPTION_ARG_INT, &seconds,
         "End runs after that long; 0: never", "N"},
        {"store", 0, 0, G_OPTION_ARG_STRING, &store,
         "\"dir:\" alone is a temporary one", "LOCATION"},
        {"size", 0, 0, G_OPTION_ARG_INT64, &size, "Of the volume", "BYTES"},
        {"object-size", 0, 0, G_OPTION_ARG_INT, &object, "", "BYTES"},
        {"queues", 0, 0, G_OPTION_ARG_INT, &queues, "1 to 8", "N"},
        {"depth", 0, 0, G_OPTION_ARG_INT, &depth, "In flight a queue", "N"},
        {"threads", 0, 0, G_OPTION_ARG_NONE, &setup->threads,
         "One thread a queue", NULL},
        {"quiet-resize", 0, 0, G_OPTION_ARG_NONE, &setup->quiet_resize,
         "Resize only with nothing in flight", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1 ||
        queues < 1 || queues > QUEUES_MAX || depth < 1 || size < 512) {
        fprintf(stderr, "%s\n", error ? error->message : "bad arguments");
        exit(2);
    }
    if (seed < 0) {
        const char *text = g_getenv("ARCHIPELAGO_SEED");

        seed = text ? g_ascii_strtoll(text, NULL, 10) : g_random_int();
    }
    setup->seed = (guint32)seed;
    setup->runs = (unsigned)runs;
    setup->rounds = (unsigned)rounds;
    setup->ops = (unsigned)ops;
    setup->seconds = (unsigned)seconds;
    setup->store = store ? store : g_strdup("memory:property");
    setup->size_bytes = (uint64_t)size;
    setup->size_max_bytes =
        MIN(ARCHIP_SIZE_MAX, setup->size_bytes + 3 * (uint64_t)object);
    setup->object_bytes = (uint32_t)object;
    setup->queues = (unsigned)queues;
    setup->depth = (unsigned)depth;
}

/* Rounds until there were enough, or time is up. */
static void run_rounds(struct run *run, gint64 end_us)
{
    while (run->round_number < run->setup->rounds &&
           (!end_us || g_get_monotonic_time() < end_us)) {
        struct round *round;

        run->round_number++;
        run->doing = "round";
        round = generate_round(run);
        drive_round(run, round);
        verdict_round(run, round);
        round_free(round);
        life_step(run);
    }
}

static void run_seed(const struct setup *setup, guint32 seed)
{
    struct run run = {
        .setup = setup, .seed = seed, .size_bytes = setup->size_bytes,
        .random = g_rand_new_with_seed(seed),
        .model = model_new(1), .other_model = model_new(1),
        .history = g_array_new(FALSE, FALSE, sizeof(struct op)),
    };
    gint64 end_us = setup->seconds ? g_get_monotonic_time() +
                                         setup->seconds * G_USEC_PER_SEC
                                   : 0;

    life_begin(&run);
    generate_focus(&run);
    run_rounds(&run, end_us);
    life_end(&run);
    printf("seed %u: %u rounds, %u requests\n", seed, run.round_number,
           run.step);
    g_rand_free(run.random);
    model_free(run.model);
    model_free(run.other_model);
    g_array_unref(run.history);
}

int main(int argc, char **argv)
{
    struct setup setup = {0};

    read_options(argc, argv, &setup);
    printf("%s, %" PRIu64 " bytes, objects of %u, %u queues of %u%s, seed %u\n",
           setup.store, setup.size_bytes, setup.object_bytes, setup.queues,
           setup.depth, setup.threads ? " in threads" : "", setup.seed);
    fflush(stdout);
    for (unsigned i = 0; i < setup.runs; i++) {
        run_seed(&setup, setup.seed + i);
    }
    g_free(setup.store);
    return 0;
}
