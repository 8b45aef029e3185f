# tools/idempotency: a shell client of the admin page and of the status page.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP qw(decode_json);
use Test::More;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(ask begin);

plan skip_all => 'is the same with each store' if store_mode() ne 'memory';

my $server = <<'END';
        add_header X-Id $idempotency_key_id always;
        idempotency main;
        location / { proxy_pass http://app; }
        location /broken/ { proxy_read_timeout 200ms; proxy_next_upstream off; proxy_pass http://app; }
        location = /admin { idempotency_admin; allow unix:; deny all; }
        location = /closed { idempotency_admin; auth_basic keys; auth_basic_user_file users; }
        location = /status { idempotency_status; }
        location = /nothing { return 404; }
END

my $nginx = IdempotencyTest::Nginx->new(server => $server);
$nginx->write_file('users', "alice:{PLAIN}secret\n");
$nginx->start;
my $url = 'http://' . $nginx->address . ':';
my $tool = "$FindBin::Bin/../tools/idempotency";
my @keys = ('--store', 'main', '--scope', '', '--scope', 'alice', '--key');

# The exit status, the standard output and the standard error of the tool.
sub run {
    my ($command, @arguments) = @_;
    my @url = $command =~ /^(?:stats|watch)$/ ? ('--status-url', "$url/status") : ('--url', "$url/admin");
    my $directory = $nginx->directory;
    my $child = fork // die "fork: $!\n";
    if ($child == 0) {
        open STDOUT, '>', "$directory/out" or die;
        open STDERR, '>', "$directory/err" or die;
        exec 'python3', $tool, $command, @url, @arguments or die;
    }
    waitpid $child, 0;
    return $? >> 8, slurp("$directory/out"), slurp("$directory/err");
}

my $first = ask($nginx, '/tool?text=body-text', 'one');
my $id = $first->header('X-Id');

subtest 'get' => sub {
    my ($status, $out, $err) = run('get', '--store', 'main', '--id', $id);
    is $status, 0, 'a key is shown' or diag $err;
    like $out, qr/^id +$id$/m, 'with its id';
    like $out, qr/^state +kept$/m, 'and state';
    like $out, qr/^since +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/m, 'and time';
    ($status, $out) = run('get', @keys, 'one', '--json');
    is decode_json($out)->{id}, $id, 'by key and scope, as JSON';
    $nginx->write_file('key', "one\n");
    $nginx->write_file('scope', "alice\n");
    my $directory = $nginx->directory;
    ($status, $out) = run('get', '--store', 'main', '--scope', '', '--scope-file', "$directory/scope", '--key-file', "$directory/key");
    like $out, qr/^id +$id$/m, 'from files, too';
    open my $input, '<', "$directory/key" or die;
    open my $saved, '<&', \*STDIN or die;
    open STDIN, '<&', $input or die;
    ($status, $out, $err) = run('get', '--store', 'main', '--scope', '', '--scope-file', '-', '--key-file', '-');
    open STDIN, '<&', $saved or die;
    is "$status $err", "2 idempotency: only one value can be read from the standard input\n", 'only one from the standard input';
    $nginx->write_file('empty', '');
    ($status, $out, $err) = run('get', '--store', 'main', '--scope', '', '--scope-file', "$directory/empty", '--key-file', "$directory/key");
    is "$status $err", "2 idempotency: $directory/empty: it has no line\n", 'an empty file is no empty value';
    ($status, $out) = run('get', @keys, 'one', '--answer');
    like $out, qr/^201.*\n\n#1 body-text/s, 'with its response';
    ($status, $out, $err) = run('get', @keys, 'two');
    is $status, 1, 'a key that is not there';
    like $err, qr/^idempotency: key_not_found: /, 'is not found';
};

subtest 'forget' => sub {
    my ($status, $out) = run('forget', '--store', 'main', '--id', $id);
    is "$status $out", "0 $id: kept, now forgotten\n", 'a key is forgotten';
    is ask($nginx, '/tool?text=body-text', 'one')->is_replay, '', 'the next request runs';
    my $running = begin($nginx, '/running', 'running');
    my $err;
    ($status, $out, $err) = run('forget', @keys, 'running');
    like "$status $err", qr/^1 idempotency: key_running: /, 'a running one is not';
    ($status, $out) = run('forget', @keys, 'running', '--force');
    like "$status $out", qr/^0 \w+: running, now forgotten\n/, 'unless it is forced';
    app()->open_gate('running');
    is $running->response->status, 201, 'its request ends';
};

subtest 'settle' => sub {
    is ask($nginx, '/broken/lost?gate=lost', 'lost')->status, 504, 'a key is unknown';
    my ($status, $out) = run('settle', @keys, 'lost', 'released');
    like "$status $out", qr/^0 \w+: unknown, now released\n/, 'it is released';
    is ask($nginx, '/broken/lost?gate=lost', 'lost')->status, 504, 'it is unknown again';
    ($status, $out) = run('settle', @keys, 'lost', 'not_kept');
    like "$status $out", qr/^0 \w+: unknown, now not_kept\n/, 'it is settled as not kept';
    ($status) = run('settle', @keys, 'lost', 'kept');
    is $status, 2, 'another outcome is an error of usage';
};

subtest 'erase' => sub {
    ask($nginx, "/erase/$_", "erase-$_") for 1 .. 5;
    my ($status, $out, $err) = run('erase', '--store', 'main', '--scope', '', '--scope', 'alice', '--interval', '0.05');
    is $status, 0, 'the keys of a scope are erased' or diag $err;
    like $out, qr/^[0-9a-f]{15}: done, \d+ records examined, [1-9]\d* keys forgotten, 0 unknown/, 'and counted';
    is((run('get', @keys, 'erase-3'))[0], 1, 'none is left');
    ($status, $out, $err) = run('erase', '--store', 'main', '--scope', '');
    like "$status $err", qr/^2 .*give --scope/, 'not without a scope';
};

subtest 'stats and watch' => sub {
    my ($status, $out, $err) = run('stats', '--store', 'main');
    is $status, 0, 'figures are shown' or diag $err;
    like $out, qr/^main +requests\.new +\d+$/m, 'each in a line';
    ($status, $out) = run('stats', '--json');
    ok decode_json($out)->{main}{requests}{new} > 0, 'or as JSON';
    ($status, $out, $err) = run('watch', '--interval', '0.1', '--count', '2');
    is $status, 0, 'watch ends after some looks' or diag $err;
};

subtest 'Errors' => sub {
    my ($status, $out, $err) = run('get', '--store', 'main');
    like "$status $err", qr/^2 .*which key\?/, 'without a key';
    ($status, $out, $err) = run('get', @keys, 'one', '--id', $id);
    like "$status $err", qr/^2 .*either --id/, 'with two';
    ($status, $out, $err) = run('get', '--url', "$url/nothing", '--store', 'main', '--id', $id);
    like "$status $err", qr/^1 .*404.*is this the page/, 'another page';
    ($status, $out, $err) = run('get', '--url', "$url/status", '--store', 'main', '--id', $id);
    like "$status $err", qr/^1 .*is no admin page/, 'the status page';
    ($status, $out, $err) = run('get', '--url', 'http://unix:/nowhere:/admin', '--store', 'main', '--id', $id);
    like "$status $err", qr/^3 .*No such file.*--url/, 'no server';
    ($status, $out, $err) = run('get', '--url', 'ftp://host/', '--store', 'main', '--id', $id);
    is $status, 2, 'no URL';
};

subtest 'A password' => sub {
    my @closed = ('--url', "$url/closed", '--store', 'main', '--id', 'ab' x 32);
    my ($status, $out, $err) = run('forget', @closed);
    like "$status $err", qr/^1 .*401/, 'is needed';
    my $directory = $nginx->directory;
    $nginx->write_file('password', "secret\n");
    ($status, $out, $err) = run('forget', @closed, '--user', 'alice', '--password-file', "$directory/password");
    like "$status $err", qr/^1 .*key_not_found/, 'and comes from a file';
};

subtest 'The manual' => sub {
    my $manual = slurp("$FindBin::Bin/../docs/idempotency.1") =~ s/\\-/-/gr;
    my %options;
    for my $command (qw(get forget settle erase stats watch)) {
        my ($status, $help) = run($command, '--help');
        $options{$1} = 1 while $help =~ /(--[a-z][a-z-]+)/g;
        like $manual, qr/^\.B $command\b/m, "has $command";
    }
    is join(' ', grep { $_ ne '--help' && $manual !~ /\Q$_\E\b/ } sort keys %options), '', 'has every option';
    is join(' ', grep { !$options{$_} } grep { $_ ne '--help' } $manual =~ /(--[a-z][a-z-]+)/g), '', 'and no other one';
};

$nginx->stop;
done_testing;
