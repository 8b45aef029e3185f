# The completion of `idempotency` in bash: the commands and the options of the tool itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(store_mode);

plan skip_all => 'needs no store: run with the memory store alone' if store_mode() ne 'memory';

my $repository = "$FindBin::Bin/..";

# What bash offers for the last word.
sub completions {
    my (@words) = @_;
    my $script = '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _idempotency; printf "%s\n" "${COMPREPLY[@]}"';
    open my $pipe, '-|', 'bash', '-c', $script, 'bash', "$repository/contrib/bash-completion/idempotency", "$repository/tools/idempotency", @words
        or die "bash: $!\n";
    chomp(my @lines = <$pipe>);
    return join ' ', @lines;
}

sub help { return scalar qx($repository/tools/idempotency @_ --help) }

my @commands = help() =~ /^    ([a-z]+) /mg;
ok @commands > 0, 'the tool lists its commands';
is completions(''), join(' ', '--help', sort @commands), 'they are offered';
is completions('s'), 'settle stats', 'those that begin so';
is completions('settle', '--id', 'x', ''), 'not_kept released', 'the outcomes of settle';

my %seen;

for my $command (@commands) {
    my %value = map { m/^  (?:-h, )?(--[a-z-]+)(?: ([A-Z]+))?/ ? ($1 => $2 // '') : () } split /\n/, help($command);
    is completions($command, '-'), join(' ', sort keys %value), "the options of $command";

    for my $option (sort grep { $value{$_} ne '' && !$seen{$_}++ } keys %value) {
        my @files = $value{$option} eq 'FILE' ? "$repository/README.md" : ();
        is completions($command, $option, "$repository/READ"), "@files", "$command $option: " . (@files ? 'files' : 'a value that nothing is known of');
        is completions($command, $option, '--'), '', "$command $option: no other option";
    }
}

done_testing;
