package IdempotencyTest::WaysRules;

# The rules that each location of the matrix tests is held against. The server `plain` has the same locations without the module: it says
# what a fresh request gets. Each request has its own space of the application, so its executions are counted, and an execution is the
# first one of its space.

use strict;
use warnings;

use Exporter 'import';
use Test::More ();

use IdempotencyTest::App;
use IdempotencyTest::Environment qw(store_mode);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use IdempotencyTest::Ways qw(bad good ways_cases ways_files ways_http ways_locations);

our @EXPORT_OK = qw(check_ways);

# `idempotency_max_body` of the locations.
use constant MAX_BODY => 4096;

# The whole test: starts an nginx and checks the locations, each with one of the protocols. `listen` returns a directive for both servers.
# `protocols`: the name; what returns a client of an nginx, with send and response; how a client leaves, given the result of `send`; whether
# its connection stays. `few`: fewer locations. IDEMPOTENCY_TEST_WAYS="COUNT SEED": so many locations, each with all protocols.
sub check_ways {
    my (%test) = @_;
    my ($many, $seed) = split ' ', $ENV{IDEMPOTENCY_TEST_WAYS} // '';
    my $app = IdempotencyTest::App->new(gateways => 1);
    my @modules = IdempotencyTest::Nginx->available_modules(qw(ndk_http_module ngx_http_lua_module ngx_http_echo_module ngx_http_js_module));
    my $nginx = IdempotencyTest::Nginx->new(application => $app, modules => \@modules, workers => 1, memory => '256m',
        store_mode() eq 'redis' ? (store => 'connect_timeout 10s; timeout 10s;') : ());
    my $files = ways_files($nginx);
    my %has = map { m{\bngx_http_(\w+)_module} ? ($1 => 1) : () } @modules;
    my @cases = ways_cases(app => $app, files => $files, has => \%has, many => $many, seed => $seed, few => $test{few});
    my %options = (cases => \@cases, files => $files, has => \%has, dead => dead_port(), listen => $test{listen}->($nginx));
    my @protocols = @{$test{protocols}};

    $nginx->set(http => ways_http(%options, socket => $nginx->socket), server => ways_locations(%options))->start;

    for my $n (0 .. $#protocols) {
        my ($name, $connect, $leave, $stays) = @{$protocols[$n]};
        my @chosen = $many ? @cases : grep { $_->{number} % @protocols == $n } @cases;
        my $self = __PACKAGE__->new(application => $app, name => $name, connect => sub { $connect->($nginx) }, leave => $leave,
            stays => $stays, prefix => "$n-$$-");

        $self->check($_) for @chosen;
        my @faults = @{$self->{faults}};
        Test::More::is(scalar @faults, 0, "$name: " . scalar(@chosen) . " locations, $self->{requests} requests");
        Test::More::diag(join "\n", @faults > 20 ? (@faults[0 .. 19], '...') : @faults) if @faults;
    }

    $nginx->stop(seconds => 60);
    Test::More::done_testing();
}

sub new {
    my ($class, %options) = @_;
    return bless {spaces => 0, faults => [], requests => 0, %options}, $class;
}

sub client { return $_[0]{client} //= $_[0]{connect}->() }

# A response, with the number of executions that its request has caused.
sub ask {
    my ($self, $who, $host, $key) = @_;
    my $space = $self->{prefix} . ++$self->{spaces};
    my $response = $self->take(sub { $_[0]->send($self->request($who, $host, $key, $space)) });
    $response->{runs} = $self->runs($space);
    return $response;
}

sub runs { my ($self, $space) = @_; return $self->{application}->in_space($space)->count('/*') }

sub take {
    my ($self, $send) = @_;
    my $client = $self->client;
    $self->{requests}++;
    my $sent = $send->($client);
    my $response = ref $sent ? $sent->response : $client->response($sent);
    delete $self->{client} if $response->status == 0 || ($response->header('Connection') // '') eq 'close';
    return $response;
}

sub request {
    my ($self, $who, $host, $key, $space, @headers) = @_;
    return path => $self->{case}{path}, host => $host, key => $key, body => 'the body',
        headers => [$who eq 'good' ? good() : bad(), "App-Space: $space", 'Accept-Encoding: gzip', @headers];
}

sub fault {
    my ($self, $what, @responses) = @_;
    my $case = $self->{case};
    push @{$self->{faults}}, join "\n", "$self->{name}, $case->{name}: $what", (map { ref ? shown($_) : $_ } @responses), $case->{text}, '';
}

sub shown {
    my ($response) = @_;
    my $runs = defined $response->{runs} ? " ($response->{runs} executions)" : '';
    return '  ' . $response->status_line . "$runs\n" . join '', map { "    $_\n" } split /\r?\n/, substr $response->lasting, 0, 500;
}

# A covered response has no ranges.
sub lasting { return $_[0]->lasting =~ s/^Accept-Ranges: bytes\n//imr }
sub same { return $_[0]->status != 0 && lasting($_[0]) eq lasting($_[1]) }

# Holds one location against the rules.
sub check {
    my ($self, $case) = @_;
    $self->{case} = $case;
    $self->{key} = "$self->{prefix}-$case->{number}";
    my $faults = @{$self->{faults}};

    my $plain_good = $self->{plain_good} = $self->ask('good', 'plain', 'p');
    my $plain_bad = $self->{plain_bad} = $self->ask('bad', 'plain', 'p');
    $self->fault('the plain server does not respond', $plain_good, $plain_bad) if !$plain_good->status || !$plain_bad->status;

    if ($case->{uncovered}) {
        $self->check_uncovered;
    }
    elsif ($self->is_retriable($plain_good) && !$case->{acts}) {
        $self->check_retriable;
    }
    else {
        $self->check_covered;
    }

    # what runs otherwise than expected might not even arrive
    $self->check_client_that_leaves if !$case->{uncovered} && !$self->is_retriable($plain_good) && $plain_good->{runs} && $faults == @{$self->{faults}};
}

# A way on which something refuses each request. Where a part of the way is covered, a retry may also get a replay, or no response any more.
sub check_uncovered {
    my ($self) = @_;

    for my $who (qw(bad good good bad)) {
        my $plain = $self->{"plain_$who"};
        my $response = $self->ask($who, 'localhost', "$self->{key}-$who");
        $self->fault("a request that is not covered ($who)", $plain, $response) if !same($response, $plain) && !$self->is_not_kept($response);
        $self->fault("executions of a request that is not covered ($who)", $plain, $response)
            if $self->{case}{exchange} ? $response->{runs} > $plain->{runs} : $response->{runs} != $plain->{runs};
    }
}

# The application has not acted on the request.
sub check_retriable {
    my ($self) = @_;

    for my $who (qw(bad good good bad)) {
        my $plain = $self->{"plain_$who"};
        my $response = $self->ask($who, 'localhost', $self->{key});
        $self->fault("a request on which the application has not acted ($who)", $plain, $response)
            if !same($response, $plain) || $response->is_replay || $response->{runs} != $plain->{runs};
    }
}

sub is_retriable { my ($self, $response) = @_; return $response->{runs} && $response->status =~ /^(?:401|403|408|425|429|503)$/ }

sub is_refused { my ($self) = @_; return !same($self->{plain_bad}, $self->{plain_good}) }

sub check_covered {
    my ($self) = @_;
    my ($plain_good, $plain_bad, $key) = @$self{qw(plain_good plain_bad key)};

    if ($self->is_refused) {
        my $refused = $self->ask('bad', 'localhost', $key);
        $self->fault('a refused request gets what it gets without the module', $plain_bad, $refused) if !same($refused, $plain_bad);
        $self->fault('a refused request runs where it runs without the module', $plain_bad, $refused) if $refused->{runs} != $plain_bad->{runs};

        if ($refused->{runs}) {
            my $after = $self->ask('good', 'localhost', $key);
            $self->fault('what an application has got before a check refused it does not run again', $refused, $after)
                if $after->{runs} && !$self->{case}{retriable};
            $key = "$self->{key}-again";
        }
    }

    my $first = $self->ask('good', 'localhost', $key);
    $self->fault('the first request gets what it gets without the module', $plain_good, $first) if !same($first, $plain_good) || $first->is_replay;
    $self->fault('the first request runs where it runs without the module', $plain_good, $first) if $first->{runs} != $plain_good->{runs};

    $self->check_retry($key);

    if ($self->is_refused) {
        my $refused = $self->ask('bad', 'localhost', $key);
        my $is_kept = $refused->is_replay || same($refused, $plain_good);
        $self->fault('nobody gets a kept response whom a fresh request would refuse', $refused) if $is_kept;
        $self->fault('a refused retry gets what it gets without the module', $plain_bad, $refused)
            if !same($refused, $plain_bad) && !$self->is_not_kept($refused);
        $self->fault('a refused retry does not run', $refused)
            if $refused->{runs} && !($self->may_repeat && $refused->{runs} == $plain_bad->{runs});
    }

    $self->check_retry($key);
}

sub is_not_kept {
    my ($self, $response) = @_;
    return ($self->{case}{not_kept} || $self->{case}{unrecordable}) && $response->code eq 'response_not_kept';
}

# What no application has got, or has not acted on, may be done again: here an intercepted 429, after which nginx refuses the method
# (a file, 405).
sub may_repeat {
    my ($self) = @_;
    return !$self->{plain_good}{runs} || $self->{case}{retriable} && !$self->{case}{acts} && $self->{plain_good}->status >= 400;
}

sub check_retry {
    my ($self, $key) = @_;
    my $retry;
    await(sub { $retry = $self->ask('good', 'localhost', $key); $retry->code ne 'request_in_progress' });
    return if $self->may_repeat && !$retry->is_replay && same($retry, $self->{plain_good}) && $retry->{runs} == $self->{plain_good}{runs};

    # the handler may not have been reached
    my $is_right = $self->is_not_kept($retry) || $retry->is_replay && same($retry, $self->{plain_good}) && length $retry->body <= MAX_BODY;
    $self->fault('a retry gets the fresh response', $self->{plain_good}, $retry) if !$is_right;
    $self->fault('a retry does not run', $retry) if $retry->{runs};
}

sub check_client_that_leaves {
    my ($self) = @_;
    my $space = $self->{prefix} . ++$self->{spaces};
    my $app = $self->{application}->in_space($space);
    my $key = "$self->{key}-left";
    my $client = $self->{stays} ? $self->client : $self->{connect}->();
    my $sent = $client->send($self->request('good', 'localhost', $key, $space, 'App-Gate: left'));

    if (!eval { $app->await_arrival('/*') }) {
        $self->fault('the request of a client that leaves does not arrive');
        return;
    }

    my $duplicate = $self->ask('good', 'localhost', $key);
    $self->fault('a duplicate beside the first', $duplicate) if $duplicate->code ne 'request_in_progress' || $duplicate->{runs};

    if ($self->is_refused) {
        $duplicate = $self->ask('bad', 'localhost', $key);
        $self->fault('a refused duplicate beside the first', $self->{plain_bad}, $duplicate)
            if $duplicate->code ne 'request_in_progress' && !same($duplicate, $self->{plain_bad}) || $duplicate->{runs};
    }

    $self->{leave}->($client, $sent);
    # after this response nginx has seen that the client has left
    $duplicate = $self->ask('good', 'localhost', $key);
    $self->fault('a duplicate after the client of the first has left', $duplicate)
        if $duplicate->code ne 'request_in_progress' || $duplicate->{runs};
    $app->open_gate('left');
    $self->check_retry($key);
    my $runs = $self->runs($space);
    $self->fault("a request whose client has left runs to its end: $self->{plain_good}{runs} executions, not $runs") if $runs != $self->{plain_good}{runs};
}

1;
