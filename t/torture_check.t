# The checker of tools/torture: histories that break a rule are found, those that break none pass.

use strict;
use warnings;
use FindBin;

exec 'python3', "$FindBin::Bin/torture_check.py" or die "python3: $!\n";
