package IdempotencyTest::Files;

# Whole files, read and written as bytes.

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(slurp write_file);

# The content of a file; empty if there is no such file.
sub slurp {
    my ($file) = @_;
    open my $in, '<:raw', $file or return '';
    local $/;
    return <$in> // '';
}

# Writes a file, and returns its name.
sub write_file {
    my ($file, $content) = @_;
    open my $out, '>:raw', $file or die "$file: $!\n";
    print $out $content;
    close $out or die "$file: $!\n";
    return $file;
}

1;
