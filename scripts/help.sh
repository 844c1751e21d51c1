#!/usr/bin/env bash
# Sourced first by the other scripts: with --help or -h it prints the comment at the top of the script that was called
# and ends it, before anything is set up.
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
