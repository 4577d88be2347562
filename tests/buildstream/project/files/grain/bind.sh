#!/bin/sh
# Sorts what stands on the field.
sort "$1"
