/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables for people: columns as wide as they must be, two blanks apart. */
#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct table {
    guint column_count;
    char **headings;
    GPtrArray *cells;           /* row by row, headings first */
};

struct table *table_new(const char *headings)
{
    struct table *table = g_new0(struct table, 1);

    table->headings = g_strsplit(headings, " ", -1);
    table->column_count = g_strv_length(table->headings);
    table->cells = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < table->column_count; i++) {
        const char *heading = table->headings[i];

        g_ptr_array_add(table->cells,
                        g_strdup(heading + (*heading == '>' ? 1 : 0)));
    }
    return table;
}

void table_row(struct table *table, ...)
{
    va_list args;

    va_start(args, table);
    for (guint i = 0; i < table->column_count; i++) {
        g_ptr_array_add(table->cells, va_arg(args, char *));
    }
    va_end(args);
}

static glong column_width(const struct table *table, guint column)
{
    glong width = 0;

    for (guint i = column; i < table->cells->len; i += table->column_count) {
        width = MAX(width, g_utf8_strlen(table->cells->pdata[i], -1));
    }
    return width;
}

static void pad(GString *line, glong count)
{
    for (glong i = 0; i < count; i++) {
        g_string_append_c(line, ' ');
    }
}

static void add_cell(const struct table *table, GString *line, guint index,
                     glong width)
{
    guint column = index % table->column_count;
    const char *cell = table->cells->pdata[index];
    glong missing = width - g_utf8_strlen(cell, -1);
    bool right = *table->headings[column] == '>';

    pad(line, column > 0 ? 2 : 0);
    pad(line, right ? missing : 0);
    g_string_append(line, cell);
    pad(line, right ? 0 : missing);
}

/* The row that begins with cell `first`, without blanks at its end. */
static void print_row(const struct table *table, guint first,
                      const glong *widths)
{
    g_autoptr(GString) line = g_string_new(NULL);

    for (guint i = 0; i < table->column_count; i++) {
        add_cell(table, line, first + i, widths[i]);
    }
    puts(g_strchomp(line->str));
}

void table_free(struct table *table)
{
    g_ptr_array_free(table->cells, TRUE);
    g_strfreev(table->headings);
    g_free(table);
}

void table_print(struct table *table)
{
    g_autofree glong *widths = g_new(glong, table->column_count);

    for (guint i = 0; i < table->column_count; i++) {
        widths[i] = column_width(table, i);
    }
    for (guint i = 0; i < table->cells->len; i += table->column_count) {
        print_row(table, i, widths);
    }
    table_free(table);
}
