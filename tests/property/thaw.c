/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Against the public API alone, which has no way to freeze a layer yet. */
#include "property.h"

#include <errno.h>

const bool can_freeze = false;

int freeze_volume(archip_volume *volume)
{
    return -ENOTSUP;
}
