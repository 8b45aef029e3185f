# Plays faults, and compares what clients, page, metrics and log said with the table in docs/operations.md.
#
#   IDEMPOTENCY_TEST_STORE=redis perl t/operations.t --write     writes the table

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app store_mode);
use IdempotencyTest::Files qw(slurp write_file);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await dead_port);
use IdempotencyTest::Redis;
use IdempotencyTest::Relay;

plan skip_all => 'one run plays the faults of both stores' if store_mode() ne 'redis';

my $page = "$FindBin::Bin/../docs/operations.md";
my $writes = grep { $_ eq '--write' } @ARGV;
my ($begin, $end) = ("<!-- faults: written by t/operations.t -->\n", "<!-- end of faults -->\n");
my @who = ('X-API-Key: alice');
my $short = 'connect_timeout 300ms; timeout 300ms;';
my $locations = <<'END';
        idempotency main;
        add_header X-Id $idempotency_key_id always;
        idempotency_lease 1s;
        idempotency_unknown hold 1h;
        proxy_read_timeout 30s;
        location / { proxy_pass http://app; }
        location /slow/ { proxy_read_timeout 300ms; proxy_pass http://app; }
        location /small/ { idempotency_max_body 1k; proxy_pass http://app; }
        location /big/ { idempotency_max_body 8m; proxy_pass http://app; }
        location /dead/ { proxy_pass http://127.0.0.1:1; }
        location /required/ { idempotency main required; proxy_pass http://app; }
        location /quota/ { idempotency_quota $http_x_api_key 1r/m; proxy_pass http://app; }
        location = /status { idempotency off; idempotency_status; }
END

my ($nginx, $redis, $relay, $before);
my $n = 0;
my $play = 0;

sub ask { my ($path, $key, %more) = @_; return $nginx->request(path => $path, key => $key, headers => \@who, %more) }
sub figures { return $nginx->request(method => 'GET', path => '/status')->json->{stores}{main} }
sub begin { my ($path, $key) = @_; my $sent = $nginx->send_request(path => $path, key => $key, headers => \@who); app()->await_arrival($path =~ s/\?.*//r); return $sent }
sub said { my ($response) = @_; return $response->status . ($response->code ? ' `' . $response->code . '`' : '') }
sub logs { my ($pattern) = @_; return $nginx->await_error_log($pattern) }

# Until the response is that of a store that refuses.
sub refused { my $response; await(sub { $response = ask('/refused', 'refused' . ++$n); $response->status == 503 }); return said($response) }

sub redis_key { my ($response) = @_; return $nginx->{prefix} . $response->header('X-Id') }

# Redis replies to the next command with this error.
sub error_fault {
    my ($error) = @_;
    return sub { $relay->do('replace', unpack 'H*', "-$error\r\n"); my $response = ask('/error', 'error'); $relay->do('pass'); return said($response) };
}

# Each with a store: `redis`, the Redis server itself; `relay`, one with a relay in front of it; `memory SIZE`; or directives.
my @faults = (
    ['Redis is killed', redis => sub { ask('/a', 'a'); $redis->kill; refused() }],
    ['Redis stalls', redis => sub { ask('/a', 'a'); $redis->stall; refused() }],
    ['A firewall drops the connection', relay => sub { ask('/a', 'a'); $relay->do('hold'); refused() }],
    ['Redis is full', redis => sub { ask('/a', 'a'); $redis->command(qw(CONFIG SET maxmemory-policy noeviction)); $redis->command(qw(CONFIG SET maxmemory 1)); refused() }],
    ['Redis is a replica', redis => sub { ask('/a', 'a'); $redis->command(qw(REPLICAOF 127.0.0.1 1)); my $said; await(sub { $said = refused(); is_down() }); $said }],
    ['The ACL of Redis lacks a permission', redis => sub { ask('/a', 'a'); $redis->command(qw(ACL SETUSER default -set -eval -evalsha)); refused() }],
    ['Redis has another password', redis => sub { ask('/a', 'a'); $redis->command(qw(CONFIG SET requirepass other)); $redis->command(qw(CLIENT KILL TYPE normal)); my $said; await(sub { $said = refused(); (figures()->{health}{cause} // '') eq 'noauth' }); $said }],
    ['Redis has forgotten the scripts', redis => sub { ask('/a', 'a'); $redis->command(qw(SCRIPT FLUSH)); said(ask('/a2', 'a2')) }],
    ['Redis loads its data', relay => error_fault('LOADING Redis is loading the dataset in memory')],
    ['Redis can\'t save its data', relay => error_fault('MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk')],
    ['A node of a cluster, without `topology cluster`', relay => error_fault('MOVED 1 127.0.0.1:1')],
    ['Redis evicts keys', redis => sub { logs(qr/maxmemory-policy/); said(ask('/a', 'a')) }, 'maxmemory-policy allkeys-lru'],
    ['A replica is missing', 'redis wait' => sub { refused() }],
    ['No sentinel can be reached', 'redis redis://127.0.0.1:1; topology sentinel shop' => sub { refused() }],
    ['TLS to a port without TLS', tls => sub { refused() }],
    ['The value of a key is no record', redis => sub { my $id = redis_key(ask('/a', 'a')); $redis->command('SET', $id, 'x' x 200); said(ask('/a', 'a')) }],
    ['The value of a key is encrypted, and the store has no key file', redis => sub { my $id = redis_key(ask('/a', 'a')); $redis->command('SET', $id, "IDM\x02" . 'x' x 200); said(ask('/a', 'a')) }],
    ['Redis loses the claim of a running request', redis => sub { my $sent = begin("/a$play?gate=a$play", 'a'); $redis->command('FLUSHALL'); logs(qr/claimed again/); app()->open_gate("a$play"); said($sent->response) }],
    ['Another value replaces the claim of a running request', redis => sub {
        my $sent = begin("/b$play?gate=b$play", 'b'); my ($id) = @{$redis->command('KEYS', '*')}; $redis->command('SET', $id, 'x' x 200);
        logs(qr/the claim was lost/); app()->open_gate("b$play"); said($sent->response) }],
    ['Redis is killed while a request runs', redis => sub { my $sent = begin("/c$play?gate=c$play", 'c'); $redis->kill; app()->open_gate("c$play"); my $said = said($sent->response); logs(qr/not recorded yet/); $said }],
    ['A worker is killed while a request runs', redis => sub {
        my $sent = begin("/d$play?gate=d$play", 'd'); my ($worker) = $nginx->workers; CORE::kill(KILL => $worker); await(sub { my ($new) = $nginx->workers; $new && $new != $worker });
        my $response; await(sub { $response = ask("/d$play?gate=d$play", 'd'); $response->code eq 'outcome_unknown' }); app()->open_gate("d$play"); said($response) }],
    ['Redis does not take a value of this size', redis => sub { said(ask('/big/a?size=3000000', 'a')) }, 'proto-max-bulk-len 1mb'],
    ['A memory store is full', 'memory 256k' => sub { my $response; await(sub { $response = ask('/a', 'full' . ++$n); $response->status == 503 }, 60); said($response) }],
    ['A memory store has no memory for a response', 'memory 256k' => sub { said(ask('/big/a?size=900000', 'a')) }],
    ['The application closes the connection', 'memory 8m' => sub { said(ask('/a?abort=before', 'a')) }],
    ['Its retry', 'memory 8m' => sub { ask('/a?abort=before', 'a'); said(ask('/a?abort=before', 'a')) }],
    ['The application does not respond in time', 'memory 8m' => sub { my $said = said(ask("/slow/a?gate=slow$play", 'a')); app()->open_gate("slow$play"); $said }],
    ['The response breaks off', 'memory 8m' => sub { said(ask('/a?abort=mid', 'a')) }],
    ['The application is down', 'memory 8m' => sub { said(ask('/dead/a', 'a')) }],
    ['The application refuses with 503', 'memory 8m' => sub { said(ask('/a?status=503', 'a')) }],
    ['The response is larger than `idempotency_max_body`', 'memory 8m' => sub { said(ask('/small/a?size=5000', 'a')) }],
    ['The application sends an unknown directive in `X-Accel-Idempotency`', 'memory 8m' => sub { said(ask('/a?header=X-Accel-Idempotency:keep', 'a')) }],
    ['A client uses a key for two requests', 'memory 8m' => sub { ask('/a', 'a', body => 'one'); said(ask('/a', 'a', body => 'two')) }],
    ['A retry comes while the first request runs', 'memory 8m' => sub { my $sent = begin("/e$play?gate=e$play", 'e'); my $said = said(ask("/e$play?gate=e$play", 'e')); app()->open_gate("e$play"); $sent->response; $said }],
    ['A client sends no scope', 'memory 8m' => sub { said(ask('/a', 'a', headers => [])) }],
    ['A client sends no key, and it is required', 'memory 8m' => sub { said(ask('/required/a', undef)) }],
    ['A client sends too many new keys', 'memory 8m' => sub { ask('/quota/a', "a$_") for 1, 2; said(ask('/quota/a', 'a3')) }],
);

# The messages of docs/messages.md, as patterns.
my @messages = map { /^\| `(.*?)` \| (?:emerg|alert|error|warn|notice|info)/ ? $1 : () } split /\n/, slurp("$FindBin::Bin/../docs/messages.md");

sub message_of {
    my ($line) = @_;
    my ($best) = sort { length $b <=> length $a } grep { my $pattern = join '.*?', map { quotemeta } split /\.\.\./, $_, -1; $line =~ /^$pattern/ } @messages;
    return $best // $line;
}

# What depends on time or on the number of requests that the test needs is left out.
my $unstable = qr/^(?:store_calls|kept_bytes|replayed_bytes|executions_saved|retries|renewed_leases|requests_without_key)$/;

sub counts {
    my ($figures) = @_;
    my %counts;

    for my $name (grep { !/$unstable/ && !/^(?:healthy|store_up|claims_running|oldest_claim_seconds|waiting_requests|pending_outcomes|health|store_call_seconds)|_(?:bytes|keys|blocks|seconds)$/ } keys %$figures) {
        my $value = $figures->{$name};
        if (ref $value eq 'HASH') { $counts{"$name $_"} = $value->{$_} for grep { defined $value->{$_} && !ref $value->{$_} && $value->{$_} =~ /^\d+$/ } keys %$value }
        elsif (defined $value && !ref $value && $value =~ /^\d+$/) { $counts{$name} = $value }
    }

    delete @counts{grep { /^(?:last_error|health|nodes|near)/ } keys %counts};
    return \%counts;
}

# The samples of the page in Prometheus' format, by name and labels.
sub samples {
    my $text = $nginx->request(method => 'GET', path => '/status?format=prometheus', headers => ['Accept: text/plain'])->body;
    return {map { /^(idempotency_\w+(?:\{.*?\})?) (\S+)$/ ? ($1 => $2) : () } split /\n/, $text};
}

# Whether the page says that Redis is down; it may have replied to a check since the last request.
sub is_down { my $samples = samples(); return grep { /^idempotency_redis_up\b/ && $samples->{$_} == 0 } keys %$samples }

my %alerts = slurp("$FindBin::Bin/../contrib/prometheus/rules.yml") =~ /- alert: (\w+)\n\s+expr: '(.*)'/g;

# The alerts whose expression holds after the fault: those that compare one metric, or that a counter raises. `for` is left out.
sub firing {
    my ($before, $after) = @_;
    my @firing;

    for my $alert (sort keys %alerts) {
        my $expression = $alerts{$alert};
        my $fires = 0;

        if (my ($metric, $comparison, $limit) = $expression =~ /^(\w+) (==|>) (\d+)$/) {
            $fires = grep { /^$metric\b(?!_)/ && ($comparison eq '==' ? $after->{$_} == $limit : $after->{$_} > $limit) } keys %$after;
        }

        while ($expression =~ /(?:rate|increase)\((\w+)(?:\{(\w+)(=|!~)"([^"]*)"\})?\[/g) {
            my ($metric, $label, $operator, $value) = ($1, $2, $3, $4);
            next if $metric =~ /_bucket$/;
            for my $sample (grep { /^$metric\b(?!_)/ && $after->{$_} > ($before->{$_} // 0) } keys %$after) {
                my ($is) = defined $label ? $sample =~ /\b$label="([^"]*)"/ : '';
                $fires++ if !defined $label || ($operator eq '=' ? $is eq $value : $is !~ /^(?:$value)$/);
            }
        }

        push @firing, $alert if $fires;
    }

    return @firing;
}

# Plays a fault. Returns what was said: lists of texts by column.
sub play {
    my ($name, $store, $code, @configuration) = @_;
    $play++;
    my %options = (workers => 1, log_level => 'warn', server => $locations);

    if ($store =~ /^(?:redis|relay|redis wait|tls)$/) {
        $redis = IdempotencyTest::Redis->new(configuration => join "\n", @configuration);
        $relay = $store eq 'relay' ? IdempotencyTest::Relay->new(to => $redis->socket) : undef;
        my $url = $relay ? $relay->url : $store eq 'tls' ? 'rediss://127.0.0.1:' . $redis->port : 'unix:' . $redis->socket;
        %options = (%options, redis => "$url", store => $short . ($store eq 'redis wait' ? ' wait_replicas 1 100ms;' : $store eq 'tls' ? ' ssl_verify off;' : ''));
    } else {
        $options{stores} = "idempotency_store main { $store; " . ($store =~ /redis/ ? $short : '') . ' }';
    }

    $nginx = IdempotencyTest::Nginx->start(%options);
    my ($before, $samples) = (counts(figures()), samples());
    my $client = $code->();
    my $figures = figures();
    my $health = $figures->{health};
    my $page = $health->{ok} ? 'healthy' : 'not healthy: `' . ($health->{cause} // 'no cause') . '`';
    my %moved;
    # a request is counted at its end
    await(sub { my $after = counts(figures()); %moved = map { $_ => 1 } grep { $after->{$_} > ($before->{$_} // 0) } keys %$after; %moved });
    my @alerts = firing($samples, samples());
    my %lines = map { message_of($_) => 1 } map { /\[(?:warn|error|alert)\] \d+#\d+: (?:\*\d+ )?idempotency: (.*)/ ? $1 : () } split /\n/, $nginx->error_log;
    $nginx->{process}->stop('TERM');
    return {client => [$client], page => [$page], metrics => [sort keys %moved], alerts => \@alerts, log => [sort keys %lines]};
}

sub row {
    my ($name, $said) = @_;
    return "| $name | " . join(' | ', map { join('<br>', @{$said->{$_}}) || '-' } qw(client page metrics alerts log)) . " |\n";
}

my $text = slurp($page);
my ($head, $table, $tail) = $text =~ /^(.*?\Q$begin\E)(.*?)(\Q$end\E.*)$/s or die "docs/operations.md has no table of faults\n";
my %expected = map { my @cells = split / \| /, s/^\| (.*) \|$/$1/r; $cells[0] => \@cells } grep { /^\| / } split /\n/, $table;
my $written = "| fault | the client gets | the page says | metrics that move | alerts | messages of the log |\n| --- | --- | --- | --- | --- | --- |\n";
my @only = grep { $_ ne '--write' } @ARGV;

for my $fault (@faults) {
    my ($name) = @$fault;
    next if @only && !grep { $name =~ /$_/ } @only;
    my $said = eval { play(@$fault) } or do { fail "$name: $@"; next };

    # the table has what is said each time
    if ($writes) {
        my $again = play(@$fault);
        for my $column (keys %$said) {
            my %has = map { $_ => 1 } @{$again->{$column}};
            $said->{$column} = [grep { $has{$_} } @{$said->{$column}}];
        }
    }

    my %shown = (%$said, alerts => [map { "[$_](#\L$_\E)" } @{$said->{alerts}}], metrics => [map { "`$_`" } @{$said->{metrics}}], log => [map { "`$_`" } @{$said->{log}}]);
    my $row = row($name, \%shown);
    $written .= $row;

    if ($writes) {
        pass $name;
        diag $row if @only;
        next;
    }

    # more may be said on a slow machine
    my $cells = $expected{$name} || [];
    my @missing;
    my $i = 0;

    for my $column (qw(client page metrics alerts log)) {
        my %has = map { $_ => 1 } @{$shown{$column}};
        push @missing, grep { $_ ne '-' && !$has{$_} } split /<br>/, $cells->[++$i] // 'no row in the table';
    }

    is join("\n", @missing), '', $name or diag "now: $row";
}

write_file($page, "$head$written$tail") if $writes && !@only;
cmp_ok scalar @faults, '>=', 30, 'faults';
done_testing;
