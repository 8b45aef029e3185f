# Each allocation of a request fails in turn, in nginx, the module and OpenSSL: no crash, only the correct response or an
# error, and no key that is blocked for longer than lease and hold.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IdempotencyTest::SingleAllocations;

use Test::More;
use Time::HiRes qw(sleep time);
use IdempotencyTest::Environment qw(app redis store_directives store_mode);
use IdempotencyTest::Faults;
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);
use IdempotencyTest::Requests qw(@who);

my $faults = IdempotencyTest::Faults->new('failing_malloc');

# memory for all responses
my $store = store_mode() eq 'memory' ? 'memory 64m;' : store_directives(short_leases => 1);
my $nginx = IdempotencyTest::Nginx->new(workers => 1, stores => "idempotency_store main { $store }", server => <<'END');
        idempotency main;
        idempotency_lease 1s;
        idempotency_unknown hold 1s;
        location / { proxy_pass http://app; }
        location /unbuffered/ { proxy_buffering off; idempotency_max_body 100k; proxy_pass http://app; }
        location /page/ { error_page 500 /error; proxy_pass http://app; }
        location = /error { internal; return 500 "a page\n"; }
        location /wait/ { idempotency_conflict wait 15s; proxy_pass http://app; }
        location /observed/ { idempotency main observe; proxy_pass http://app; }
        location /probe { idempotency_lease 30s; proxy_pass http://app; }
END
$faults->preloaded(sub { $nginx->start });

my ($worker) = $nginx->workers;
# The statuses of the module and nginx when they have no memory; 0 if the connection was closed.
my %is_failure = map { $_ => 1 } 0, 500, 502, 503;
my $long = 'b' x 40_000;

# Not over HTTP/2: nginx 1.22 crashes if it has no memory for a request line, when it writes this line to its log
# (ngx_http_v2_construct_request_line sets the length before it allocates the line).
my %case = (
    'a first request' => {},
    'the first request of a worker' => {fresh => 1},
    'a first request, where errors have a page' => {path => '/page', from => 25},
    'a client that leaves' => {query => 'delay=0.01&size=20000', leave => sub { $nginx->send_request(%{$_[0]{request}}) }, step => 3},
    'a replay' => {before => sub { $_[0]->() }},
    'another request with the same key' => {before => sub { $_[0]->(body => 'another body') }, status => 422},
    'a duplicate' => {query => 'gate', before => \&hold, after => \&go_on, status => 409},
    'a duplicate that waits' => {query => 'gate', path => '/wait', before => \&hold, during => \&go_on},
    'a large answer' => {query => 'kind=binary&size=200000&pieces=5'},
    'an answer that is too large' => {query => 'kind=binary&size=1100000', step => 3},
    'an answer that becomes too large' => {path => '/unbuffered', query => 'kind=binary&size=200000&framing=chunked&pieces=5', step => 2},
    'an answer that breaks off' => {query => 'abort=mid&size=2000', status => 502, retry => 502, step => 2},
    'an observed request' => {path => '/observed', executions => 3},
    'an observed retry' => {path => '/observed', executions => 3, before => sub { $_[0]->() }, step => 2},
    'a chunked body' => {request => {chunks => ['some', $long, 'body'], body => undef}, step => 2},
);

sub store_works { return $nginx->request(path => '/probe', key => 'probe', body => 'body', @who)->status == 201 }

# A new worker replaces the worker, and has no connection to the application yet: the probe is a replay.
sub start_over {
    kill KILL => $worker;
    await(sub { my ($next) = $nginx->workers; $next && $next != $worker && ($worker = $next) }) or die "there is no other worker\n";
}

sub hold {
    my ($send, $one) = @_;
    $one->{held} = $nginx->send_request(%{$one->{request}});
    app()->await_arrival($one->{path});
}

sub go_on {
    my ($one) = @_;
    app()->open_gate($one->{gate});
}

# a connection may be closed at any time
local $SIG{PIPE} = 'IGNORE';
my $n = 0;

for my $name (sort keys %case) {
    my $case = $case{$name};
    my (@all, @wrong);
    my $until = time + 60;

    for (my $nth = $case->{from} // 1; time < $until; $nth += $case->{step} // 1) {
        $n++;
        my $path = ($case->{path} // '') . "/oom$n";
        my $query = $case->{query} // '';
        $query = "gate=oom$n" if $query eq 'gate';
        my $one = {nth => $nth, path => $path, gate => "oom$n",
            request => {path => "$path?$query", key => "oom$n", body => 'body', @who, %{$case->{request} || {}}}};

        start_over() if $case->{fresh};

        # a connection to the store for which there was no memory is closed, and made again
        await(\&store_works);
        $case->{before}->(sub { $one->{earlier} = $nginx->request(%{$one->{request}}, @_) }, $one) if $case->{before};

        $faults->arm($worker, $nth);
        my $client = $case->{leave} ? $case->{leave}->($one) : $nginx->send_request(%{$one->{request}});
        if ($case->{during}) {
            sleep 0.003;
            $case->{during}->($one);
        }
        if ($case->{leave}) {
            sleep 0.005;
            $client->close;
            # until the application has sent its response
            sleep 0.03;
        }
        $one->{answer} = $case->{leave} ? IdempotencyTest::Response->missing('none') : $client->response;
        my $failed = $faults->has_failed;
        $faults->disarm;
        # a response that could not be kept is kept later if the worker still runs
        await(sub { $nginx->request(%{$one->{request}})->code !~ /^(?:request_in_progress|store_unavailable)$/ }) if $case->{fresh};
        $case->{after}->($one) if $case->{after};
        $one->{held} = $one->{held}->response if $one->{held};

        push @all, $one;
        my $status = $one->{answer}->status;
        # the first request may be the one that fails
        my $right = $status == ($case->{status} // 201) || $failed && $case->{during} && $one->{answer}->code =~ /^(?:outcome_unknown|response_not_kept)$/;
        push @wrong, "allocation $nth: " . $one->{answer}->status_line . ' ' . $one->{answer}->code
            if !$right && !$case->{leave} && !($failed && $is_failure{$status}) || $one->{answer}->status_line eq 'no response in time';
        last if !$failed || ($nginx->workers)[0] != $worker;
    }

    is join("\n", @wrong), '', "$name: the response is correct or an error, whichever of ${\scalar @all} allocations fails";
    is join(' ', $nginx->workers), $worker, "$name: and nginx still runs";
    cmp_ok scalar(@all), '>', 5, "$name: there are allocations";

    # leases and holds end
    sleep 2.2;
    @wrong = ();

    for my $one (@all) {
        my $retry = $nginx->request(%{$one->{request}});
        my $count = app()->count($one->{path});
        my $works = $retry->status == ($case->{retry} // 201) || $retry->code eq 'response_not_kept' || $retry->code eq 'idempotency_key_reused';
        # a request that was executed without a response may be executed again when lease and hold have ended; a request with a response never
        my $delivered = grep { defined && $_->status == 201 } @$one{qw(answer earlier held)};

        push @wrong, "allocation $one->{nth}: the answer was " . $one->{answer}->status_line . ', the retry gets ' . $retry->status_line . ' '
            . $retry->code . ", $count executions" if !$works || $count < 1 || $count > ($case->{executions} // ($delivered ? 1 : 2));
    }

    is join("\n", @wrong), '', "$name: when lease and hold have ended the key works, and no request with a response is executed again";
}

# A new connection to the store.
if (store_mode() eq 'redis') {
    my $nth = 0;
    my $works = 1;

    do {
        $faults->arm($worker, ++$nth);
        redis()->command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
        sleep 0.3;
    } while ($faults->has_failed && ($works = await(\&store_works)) && $nth < 40);

    $faults->disarm;
    ok $works && await(\&store_works), "a connection to the store is made again, whichever of $nth allocations fails";
    is join(' ', $nginx->workers), $worker, 'and nginx still runs';
}

$nginx->stop(allowed => qr/exited on signal 9|(?:malloc|memalign)\(.*failed|no memory/);

done_testing;
