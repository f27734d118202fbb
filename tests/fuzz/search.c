/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs a fuzzer with libFuzzer. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_run(data, bytes);
    return 0;
}
