# The core dump of a worker has neither the passwords of Redis, nor an encryption key, nor responses of other workers in shared memory.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256);
use Test::More;
use IdempotencyTest::Environment qw(new_prefix store_mode);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Redis;
use IdempotencyTest::Requests qw(@who ask);

plan skip_all => 'a sanitized worker has too much memory' if ($ENV{IDEMPOTENCY_MODULE} // '') =~ /asan/;

# The kernel writes it to the directory of the process; else gdb does.
my ($gcore) = grep { -x } map { "$_/gcore" } split /:/, $ENV{PATH};
my $is_written_by_kernel = slurp('/proc/sys/kernel/core_pattern') =~ /^[^|\/]+$/;
plan skip_all => 'neither the kernel nor gcore writes core dumps here' if !$is_written_by_kernel && !$gcore;

# The core dump of a worker, which ends.
sub core_dump {
    my ($nginx, $worker) = @_;
    my $directory = $nginx->directory . '/cores';

    if ($is_written_by_kernel) {
        kill ABRT => $worker;
    } else {
        system("$gcore -o '$directory/core' $worker >'$directory/gcore.output' 2>&1");
        kill KILL => $worker;
    }

    # the kernel has written it before the master sees the end of the process
    await(sub { $nginx->error_log =~ /worker process $worker exited on signal/ });
    my ($file) = glob "$directory/core*" or die "there is no core dump\n";
    my $core = slurp($file);
    unlink $file;
    return $core;
}

sub start_nginx {
    my (%options) = @_;
    my $nginx = IdempotencyTest::Nginx->new(%options);
    mkdir $nginx->directory . '/cores';
    $nginx->set(main => 'worker_rlimit_core 2g; working_directory ' . $nginx->directory . '/cores;');
    return $nginx;
}

# Texts that are nowhere in the memory of this kind of process by chance. `left` is in the core dump for sure: it shows that this is one.
my $left = 'remains-in-the-core-dump';
sub is_kept_out { my ($core, $text, $name) = @_; return is index($core, $text), -1, "$name is not in the core dump" }

sub check_shared_memory {
    my ($nginx) = @_;
    my ($one, $two) = $nginx->workers;
    my $text = 'a-response-in-shared-memory-' . $$;
    my $request = sub { ask($nginx, "/$left?text=$text", 'shared') };

    is $nginx->over($one, $request)->status, 201, 'a worker gets a response';
    ok await(sub { $nginx->over($one, $request)->is_replay }), 'and it is kept';

    my $core = core_dump($nginx, $two);
    cmp_ok index($core, $left), '>=', 0, 'the core dump is that of a worker';
    is_kept_out($core, $text, 'the response');
    return $core;
}

if (store_mode() eq 'memory') {
    my $nginx = start_nginx(server => "idempotency main; location / { proxy_pass http://app; } location /$left- { return 200; }")->start;
    check_shared_memory($nginx);
    done_testing;
    exit;
}

my %password = map { $_ => "password-of-$_-$$-unique" } qw(directive url file);
my $redis = IdempotencyTest::Redis->new(user => 'admin', password => 'admin-secret',
    acl => join "\n", 'user default off', 'user admin on >admin-secret ~* &* +@all', map { "user $_ on >$password{$_} ~* &* +\@all" } sort keys %password);
my $address = $redis->address;
my $prefix = new_prefix();
my $nginx = start_nginx();
my $file = $nginx->write_file('password', "$password{file}\n");
my $key = sha256("the encryption key of $$");
my $key_file = $nginx->write_file('key', unpack('H*', $key) . "\n");

# the configuration is longer than what nginx reads at a time
my $filler = join '', map { "    # a comment of some length, with the number $_\n" } 1 .. 150;
$nginx->set(stores => <<"END", server => <<"SERVER")->start;
    idempotency_store main { redis redis://$address; prefix $prefix; user directive; password $password{directive}; near_cache 1m; }
$filler
    idempotency_store url { redis redis://url:$password{url}\@$address; prefix $prefix-url:; encryption_key_file $key_file; }
$filler
    idempotency_store file { redis redis://$address; prefix $prefix-file:; user file; password_file $file; }
END
        idempotency main;
        location / { proxy_pass http://app; }
        location /url { idempotency url; proxy_pass http://app; }
        location /file { idempotency file; proxy_pass http://app; }
        location /$left- { return 200; }
SERVER

my ($one, $two) = $nginx->workers;
for my $worker ($one, $two) {
    is $nginx->over($worker, sub { ask($nginx, "/$_", "$_-$worker") })->status, 201, "a request for the store with $_" for 'main', 'url', 'file';
}

my $core = check_shared_memory($nginx);
is_kept_out($core, $password{$_}, "the password by $_") for sort keys %password;
is_kept_out($core, $key, 'the encryption key');
is_kept_out($core, unpack('H*', $key), 'the text of the encryption key');

done_testing;
