/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names that target-independent code may not use: none are defined here. */
