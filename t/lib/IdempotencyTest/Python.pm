package IdempotencyTest::Python;

# The Python programs of t/lib.

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(await free_port);

our @EXPORT_OK = qw(python_command start_python_server);

my $library = File::Spec->rel2abs(dirname(__FILE__) . '/..');

# The command line of a program of t/lib. Debian's python3-h2 is for Debian's own interpreter.
sub python_command {
    my ($program, @arguments) = @_;
    return -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3', '-B', "$library/$program", @arguments;
}

# Starts a server and returns its process and its port once it has printed 'ready'. Options: `name`, the program without
# its suffix; `output`, a file; `port`, a free one by default; `arguments` besides the port.
sub start_python_server {
    my (%options) = @_;

    # a test does not fail because another process took the port in the meantime
    for my $attempt (1 .. 5) {
        my $port = $options{port} // free_port();
        unlink $options{output};
        my $process = IdempotencyTest::Process->start(name => $options{name}, output => $options{output},
            command => [python_command("$options{name}.py", '--port', $port, @{$options{arguments} || []})]);

        await(sub { !$process->is_running || slurp($options{output}) =~ /^ready$/m });
        return $process, $port if $process->is_running;
    }

    die "$options{name}.py does not start: " . slurp($options{output}) . "\n";
}

1;
