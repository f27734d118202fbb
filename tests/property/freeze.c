/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Against the library's inside: layers are frozen, as snapshots will do, so
 * that writes copy. */
#include "property.h"
#include "volume/volume.h"

const bool can_freeze = true;

int freeze_volume(archip_volume *volume)
{
    return volume_freeze(volume);
}
