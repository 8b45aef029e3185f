package IdempotencyTest::Nginx;

# An nginx that a test starts, reloads and stops, for tests that Test::Nginx can't
# express. It listens on a unix socket in its own directory.

use strict;
use warnings;

use Test::More ();
use Time::HiRes qw(sleep);

use IdempotencyTest::Client ();
use IdempotencyTest::Environment qw(app bad_log_lines module new_prefix nginx_binary store_directives);
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(await temporary_directory);

# Parts of the configuration: `main`, `http`, `server`, `workers`, `log_level`; or the whole of it as `configuration`. The store `main`
# is of the kind that the run uses: `prefix`, `redis`, `memory`, `short_leases` and `store` are for store_directives, or `stores` replaces it.
# `application` replaces the shared one. `modules` are loaded before the module (see available_modules); `without_module` leaves the module out.
sub new {
    my ($class, %options) = @_;
    my $self = bless {
        workers => 2,
        log_level => 'info',
        application => $options{application} || app(),
        directory => temporary_directory(),
        %options,
    }, $class;

    # the same prefix over all reloads
    $self->{prefix} //= new_prefix();
    $self->{stores} //= 'idempotency_store main { ' . store_directives(%$self) . ' }';
    $self->{space} = $self->{application}->space;

    mkdir "$self->{directory}/logs" or die "mkdir: $!\n";
    return $self;
}

sub start {
    my $self = ref $_[0] ? $_[0] : (shift)->new(@_);

    $self->configure;
    unlink $self->socket;
    $self->{process} = IdempotencyTest::Process->start(
        name => 'nginx',
        output => "$self->{directory}/logs/stderr",
        command => [$self->command]);

    await(sub { !$self->{process}->is_running || $self->workers == $self->{workers} && -S $self->socket });
    die 'nginx does not start: ' . $self->output . $self->error_log . "\n" if !$self->{process}->is_running;
    return $self;
}

sub command {
    my ($self) = @_;
    my $directory = $self->{directory};
    return nginx_binary(), '-p', "$directory/", '-c', "$directory/nginx.conf", '-e', "$directory/logs/error.log";
}

# The exit status and the output of nginx -t.
sub test_configuration {
    my ($self) = @_;
    $self->configure;

    my $output = "$self->{directory}/logs/test";
    unlink $output;
    # nginx -t ends without destroying the pool of its configuration
    my $process = IdempotencyTest::Process->start(name => 'nginx -t', output => $output,
        environment => {ASAN_OPTIONS => join ':', $ENV{ASAN_OPTIONS} // (), 'detect_leaks=0'},
        command => [$self->command, '-t']);
    await(sub { !$process->is_running });
    return $process->{status}, slurp($output);
}

# Which of these modules this nginx has, for `modules` and load(). Of one that it was built with, as Lua in OpenResty, the name. Else the
# file of Debian's, if it is installed and this nginx loads it; each may need the ones before it. They load into the sanitized nginx too,
# which has the same signature, though they themselves are built without sanitizers.
sub available_modules {
    my ($class, @names) = @_;
    my ($binary) = grep { -f } map { $_ . nginx_binary() } '', map { "$_/" } split /:/, $ENV{PATH};
    my $content = slurp($binary);
    my @modules;

    for my $name (@names) {
        # a zero byte on both sides: nginx's table of the names of its modules
        if ($content =~ /\0$name\0/) {
            push @modules, $name;
            next;
        }
        my $file = "/usr/lib/nginx/modules/$name.so";
        next if !-e $file;
        my ($status) = $class->new(stores => '', without_module => 1, modules => [@modules, $file])->test_configuration;
        push @modules, $file if $status == 0;
    }

    return @modules;
}

# The directives that load these modules.
sub load {
    my ($class, @modules) = @_;
    return join ' ', map { "load_module $_;" } grep { m{/} } @modules;
}

sub socket { "$_[0]{directory}/http.sock" }
sub address { 'unix:' . $_[0]->socket }
sub directory { "$_[0]{directory}" }

# Replaces parts of the configuration for the next start or reload.
sub set {
    my ($self, %options) = @_;
    @$self{keys %options} = values %options;
    return $self;
}

sub write_file {
    my ($self, $name, $content) = @_;
    return IdempotencyTest::Files::write_file("$self->{directory}/$name", $content);
}

sub configure {
    my ($self) = @_;
    return $self->write_file('nginx.conf', $self->{configuration}) if defined $self->{configuration};

    my $directory = $self->{directory};
    my $load = $self->load(@{$self->{modules} || []}, $self->{without_module} ? () : module());
    my $user = $> == 0 ? 'user root;' : '';
    my $main = $self->{main} // '';
    my $http = $self->{http} // '';
    my $server = $self->{server} // '';
    my $log_format = $self->{log_format} // '$request_method $request_uri $status';
    my $app = '127.0.0.1:' . $self->{application}->port;

    $self->write_file('nginx.conf', <<"END");
daemon off;
worker_processes $self->{workers};
pid $directory/logs/nginx.pid;
error_log $directory/logs/error.log $self->{log_level};
$user
$load
$main

events {
    worker_connections 512;
    # every worker gets its share of a few requests
    accept_mutex off;
}

http {
    log_format test '$log_format';
    access_log $directory/logs/access.log test;
    client_body_temp_path $directory/client_body_temp;
    proxy_temp_path $directory/proxy_temp;
    fastcgi_temp_path $directory/fastcgi_temp;
    scgi_temp_path $directory/scgi_temp;
    uwsgi_temp_path $directory/uwsgi_temp;
    default_type text/plain;
    client_max_body_size 30m;

    $self->{stores}

    upstream app { server $app; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header App-Space $self->{space};
    $http

    server {
        listen unix:$directory/http.sock;
        server_name localhost;
        $server
    }
}
END
}

sub pid { $_[0]{process}->pid }

sub workers {
    my ($self) = @_;
    my $pid = $self->pid // return;
    return grep { is_worker($_) } split ' ', slurp("/proc/$pid/task/$pid/children");
}

# Returns the result of the code, during which only this worker accepts connections: the other workers, which
# have to be idle, are stopped.
sub over {
    my ($self, $worker, $code) = @_;
    my @others = grep { $_ != $worker } $self->workers;

    kill STOP => @others;
    await(sub { !grep { slurp("/proc/$_/stat") !~ /\) T / } @others });
    my $result = eval { $code->() };
    my $error = $@;
    kill CONT => @others;
    die $error if $error;
    return $result;
}

sub is_worker {
    my ($pid) = @_;
    my $title = slurp("/proc/$pid/cmdline");
    return $title =~ /^(?:nginx|angie): worker process(?! is shutting down)/;
}

# Returns when new workers accept connections and the old ones do not; the old ones have ended too
# unless `requests_run`.
sub reload {
    my ($self, %options) = @_;
    my @old = $self->workers;

    $self->configure;
    my $log_length = length $self->error_log;
    $self->{process}->signal('HUP');

    my %is_old = map { $_ => 1 } @old;
    my $is_new = await(sub {
        my $log = substr $self->error_log, $log_length;
        die "nginx does not reload: $log\n" if $log =~ /\[emerg\]/;
        $self->{workers} == grep { !$is_old{$_} } $self->workers
            and !grep { $log !~ / \Q$_\E#\d+: gracefully shutting down/ } @old;
    });
    die 'nginx does not reload: ' . $self->error_log . "\n" if !$is_new;

    if (!$options{requests_run}) {
        my $are_gone = await(sub { !grep { kill 0 => $_ } @old });
        Test::More::ok($are_gone, 'the old workers end after the reload');
    }

    return $self;
}

# Ends nginx gracefully, and checks its log. `seconds`: how long that may take.
sub stop {
    my ($self, %expected) = @_;
    my $pid = $self->pid;
    my $ended = $self->{process}->stop('QUIT', $expected{seconds});
    Test::More::ok($ended, 'nginx ends gracefully');
    $self->check_error_log(%expected);
}

# `allowed`: a pattern of lines that the test itself causes.
sub check_error_log {
    my ($self, %expected) = @_;
    my @lines = split /\n/, $self->error_log . $self->output;
    @lines = grep { $_ !~ $expected{allowed} } @lines if $expected{allowed};

    my $bad = bad_log_lines();
    Test::More::is(join("\n", grep { /$bad/ } @lines), '', 'nothing bad in the error log');
}

sub error_log { return slurp("$_[0]{directory}/logs/error.log") }
sub output { return slurp("$_[0]{directory}/logs/stderr") }
sub access_log { return split /\n/, slurp("$_[0]{directory}/logs/access.log") }

# The line of a request in the access log; it is written after the response.
sub await_access_log {
    my ($self, $pattern) = @_;
    return await(sub { (grep { /$pattern/ } $self->access_log)[0] });
}

sub await_error_log {
    my ($self, $pattern) = @_;
    return await(sub { (grep { /$pattern/ } split /\n/, $self->error_log)[0] });
}

sub connect { my ($self) = @_; return IdempotencyTest::Client->connect($self->address) }
sub send_request { my ($self, %request) = @_; return $self->connect->send(%request) }
sub request { my ($self, %request) = @_; return $self->send_request(%request)->response }

1;
