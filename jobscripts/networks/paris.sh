#!/bin/sh
# The way to the other site leads over the other router.
exec ip route add 10.2.0.0/24 via 10.9.0.2
