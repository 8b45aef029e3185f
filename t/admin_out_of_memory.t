# Each allocation of a request to the admin page fails in turn: no crash, only the correct response or an error, no change that the
# response denies, and an erasure that comes to its end.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IdempotencyTest::SingleAllocations;

use Test::More;
use Time::HiRes qw(sleep time);
use IdempotencyTest::Environment qw(app store_directives store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(ask);

my $faults = IdempotencyTest::Faults->new('failing_malloc');
my $nginx = IdempotencyTest::Nginx->new(workers => 1, server => <<'END');
        idempotency main;
        idempotency_scope $http_x_api_key;
        location / { proxy_pass http://app; }
        location /broken/ { proxy_read_timeout 100ms; proxy_next_upstream off; proxy_pass http://app; }
        location = /admin { idempotency_admin; allow unix:; deny all; }
END
my @files = map { my $file = $nginx->write_file("$_.key", $_ x 64); chmod 0600, $file; $file } 'a', 'b';
my $store = store_mode() eq 'memory' ? 'memory 64m;' : store_directives() . ' near_cache 1m;';
$nginx->set(stores => "idempotency_store main { $store encryption_key_file @files; }") if store_mode() eq 'redis';
$nginx->set(stores => "idempotency_store main { $store }") if store_mode() eq 'memory';
$faults->preloaded(sub { $nginx->start });

my ($worker) = $nginx->workers;
my %is_failure = map { $_ => 1 } 0, 500, 503;

sub admin {
    my ($method, $arguments, @headers) = @_;
    return $nginx->request(method => $method, path => "/admin?store=main$arguments", headers => ['Idempotency-Admin: 1', @headers]);
}

sub named { my ($key) = @_; return ("Idempotency-Key: $key", 'Idempotency-Scope: alice') }
sub progress { my ($id) = @_; return admin('GET', "&erasure=$id")->json }

my %case = (
    'a look' => ['GET', '', 200],
    'a look at the response' => ['GET', '&show=answer', 200],
    'a key is forgotten' => ['DELETE', '', 200],
    'an unknown key is settled' => ['POST', '&outcome=not_kept', 200],
    'an unknown key is freed' => ['DELETE', '&force=1', 200],
    'an erasure' => ['DELETE', '', 202],
);
my $n = 0;

for my $name (sort keys %case) {
    my ($method, $arguments, $status) = @{$case{$name}};
    my (@wrong, $failed, $nth);
    my $until = time + 60;

    for ($nth = 1; time < $until; $nth++) {
        my $key = 'oom-' . ++$n;
        my $path = $name =~ /unknown/ ? '/broken/oom?gate=never' : '/oom?size=3000';
        # the store may not be back yet, or may not have been told yet
        my $state = $name =~ /unknown/ ? 'unknown' : 'kept';
        await(sub { ask($nginx, $path, $key); (admin('GET', '', named($key))->json->{state} // '') eq $state }) or die "$name: no key is $state\n";

        $faults->arm($worker, $nth);
        my $response = admin($method, $arguments, $status == 202 ? 'Idempotency-Scope: alice' : named($key));
        my $erasure = $response->json->{erasure};
        my $end;
        # the steps of the erasure
        sleep 0.05 if $erasure;
        $failed = $faults->has_failed;
        $faults->disarm;

        push @wrong, "allocation $nth: " . $response->status_line . ' ' . $response->code
            if $response->status != $status && !($failed && $is_failure{$response->status});
        push @wrong, "allocation $nth: the erasure does not end"
            if $erasure && !await(sub { $end = progress($erasure); $end->{state} && $end->{state} ne 'running' });
        push @wrong, "allocation $nth: the erasure has left a key" if $erasure && admin('GET', '', named($key))->status != 404;
        push @wrong, "allocation $nth: it was forgotten" if $response->status == 500 && $method eq 'GET' && admin('GET', '', named($key))->status != 200;
        last if !$failed || ($nginx->workers)[0] != $worker;
        # one whose response is lost
        await(sub { my $again = admin('DELETE', '', 'Idempotency-Scope: alice'); $again->status == 202 && await(sub { progress($again->json->{erasure})->{state} eq 'done' }) })
            if $status == 202 && !$erasure;
    }

    is join("\n", @wrong), '', "$name: the response is correct or an error, whichever of $nth allocations fails";
    is join(' ', $nginx->workers), $worker, "$name: and nginx still runs";
    cmp_ok $nth, '>', 5, "$name: there are allocations";
}

$nginx->stop(allowed => qr/(?:malloc|memalign)\(.*failed|no memory|\[(?:error|crit)\]/);

done_testing;
