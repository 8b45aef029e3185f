package IdempotencyTest::Browser;

# Headless Chromium, driven by its DevTools protocol over a pair of pipes. What Chromium itself complains about (a violated
# Content-Security-Policy, an exception that is not caught) is collected: see complaints().

use strict;
use warnings;

use Fcntl qw(O_RDWR O_NONBLOCK);
use IO::Select;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use POSIX qw(mkfifo);
use Time::HiRes qw(time);

use IdempotencyTest::Files qw(slurp write_file);
use IdempotencyTest::Process qw(await temporary_directory);

my $json = JSON::PP->new->utf8->allow_nonref;

# The first browser that is installed, or nothing.
sub program {
    for my $name ('chromium-headless-shell', 'chromium') {
        for my $directory (split(/:/, $ENV{PATH}), '/usr/bin') {
            return "$directory/$name" if -x "$directory/$name";
        }
    }

    return;
}

sub start {
    my ($class) = @_;
    my $self = bless {directory => temporary_directory(), buffer => '', id => 0, complaints => [], requested => []}, $class;
    my $directory = "$self->{directory}";

    for my $name ('to', 'from') {
        mkfifo("$directory/$name", 0600) or die "mkfifo: $!\n";
        sysopen $self->{$name}, "$directory/$name", O_RDWR or die "$directory/$name: $!\n";
    }

    # Chromium reads from 3 and writes to 4; its sandbox does not work as root
    $self->{process} = IdempotencyTest::Process->start(name => 'chromium', output => "$directory/output", environment => {HOME => $directory},
        command => ['sh', '-c', 'directory=$1; shift; exec "$@" 3<"$directory/to" 4>"$directory/from"', 'sh', $directory, program(),
            qw(--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --disable-background-networking
            --disable-component-update --no-proxy-server --remote-debugging-pipe), "--user-data-dir=$directory/profile", 'about:blank']);

    my $target = $self->call('Target.createTarget', url => 'about:blank')->{targetId};
    $self->{session} = $self->call('Target.attachToTarget', targetId => $target, flatten => JSON::PP::true)->{sessionId};
    $self->call("$_.enable") for qw(Page Runtime Log Network);
    return $self;
}

# Calls a method of the protocol and returns its result.
sub call {
    my ($self, $method, %parameters) = @_;
    my $id = ++$self->{id};
    my $message = $json->encode({id => $id, method => $method, params => \%parameters, $self->{session} ? (sessionId => $self->{session}) : ()}) . "\0";

    while (length $message) {
        my $written = syswrite $self->{to}, $message;
        die "chromium does not read: $!\n" if !$written;
        substr $message, 0, $written, '';
    }

    my $result;
    $self->receive(sub { return ($_[0]{id} // 0) == $id && ($result = $_[0]) }) or die "$method: no reply of chromium: " . slurp("$self->{directory}/output");
    die "$method: $result->{error}{message}\n" if $result->{error};
    return $result->{result};
}

# Reads messages until one is accepted.
sub receive {
    my ($self, $accept) = @_;
    my $deadline = time() + 3 * $IdempotencyTest::Process::DEADLINE;
    my $select = IO::Select->new($self->{from});

    while (1) {
        while ($self->{buffer} =~ s/\A([^\0]*)\0//) {
            my $message = $json->decode($1);
            $self->note($message);
            return 1 if $accept->($message);
        }

        my $left = $deadline - time();
        return 0 if $left <= 0;
        die 'chromium has ended: ' . slurp("$self->{directory}/output") . "\n" if !$self->{process}->is_running;
        sysread $self->{from}, $self->{buffer}, 1 << 16, length $self->{buffer} if $select->can_read($left < 1 ? $left : 1);
    }
}

sub note {
    my ($self, $message) = @_;
    my ($method, $params) = @$message{qw(method params)};
    return if !defined $method;
    push @{$self->{complaints}}, $params->{entry}{text} if $method eq 'Log.entryAdded' && $params->{entry}{level} ne 'verbose';
    push @{$self->{complaints}}, $params->{exceptionDetails}{exception}{description} // $params->{exceptionDetails}{text} if $method eq 'Runtime.exceptionThrown';
    push @{$self->{complaints}}, map { $_->{value} // $_->{description} // '' } @{$params->{args}} if $method eq 'Runtime.consoleAPICalled';
    push @{$self->{requested}}, $params->{request}{url} if $method eq 'Network.requestWillBeSent';
}

sub complaints { my ($self) = @_; $self->call('Runtime.evaluate', expression => '0'); return @{$self->{complaints}} }
sub requested { return @{$_[0]{requested}} }

# The value of an expression in the page; promises are waited for.
sub evaluate {
    my ($self, $expression) = @_;
    my $result = $self->call('Runtime.evaluate', expression => $expression, awaitPromise => JSON::PP::true, returnByValue => JSON::PP::true);
    die "$expression: " . ($result->{exceptionDetails}{exception}{description} // $result->{exceptionDetails}{text}) . "\n" if $result->{exceptionDetails};
    return $result->{result}{value};
}

sub await_true { my ($self, $expression, $seconds) = @_; return await(sub { $self->evaluate($expression) }, $seconds) }

# Loads a page; `viewport` is WIDTHxHEIGHT, `scheme` light or dark, `script` is run before any script of the page.
sub open {
    my ($self, $url, %options) = @_;
    my ($width, $height) = ($options{viewport} // '1280x900') =~ /(\d+)x(\d+)/;
    $self->call('Emulation.setDeviceMetricsOverride', width => 0 + $width, height => 0 + $height, deviceScaleFactor => 1, mobile => $width < 600 ? JSON::PP::true : JSON::PP::false);
    $self->call('Emulation.setEmulatedMedia', features => [{name => 'prefers-color-scheme', value => $options{scheme} // 'light'}]);
    $self->call('Emulation.setScriptExecutionDisabled', value => $options{without_script} ? JSON::PP::true : JSON::PP::false);
    $self->call('Page.removeScriptToEvaluateOnNewDocument', identifier => delete $self->{script}) if $self->{script};
    $self->{script} = $self->call('Page.addScriptToEvaluateOnNewDocument', source => $options{script})->{identifier} if $options{script};
    @{$self->{requested}} = ();
    $self->call('Page.navigate', url => $url);
    $self->await_loaded($url);
}

sub await_loaded {
    my ($self, $url) = @_;
    return await(sub {
        my $result = $self->call('Runtime.evaluate', expression => '[document.readyState, location.href].join(" ")', returnByValue => JSON::PP::true);
        ($result->{result}{value} // '') eq "complete $url";
    }) || die "$url does not load\n";
}

# All roles and names that a screen reader is told.
sub accessible { my ($self) = @_; return @{$self->call('Accessibility.getFullAXTree')->{nodes}} }

sub press {
    my ($self, $key, %options) = @_;
    my %code = (Tab => 9, Enter => 13, ' ' => 32);
    my %event = (key => $key, code => $key eq ' ' ? 'Space' : $key, windowsVirtualKeyCode => $code{$key}, %options,
        $key eq 'Enter' ? (text => "\r") : $key eq ' ' ? (text => ' ') : ());
    $self->call('Input.dispatchKeyEvent', type => $_, %event) for 'keyDown', 'keyUp';
}

# Writes a PNG of the whole page, at most `height` pixels of it.
sub screenshot {
    my ($self, $file, $most) = @_;
    my $size = $self->call('Page.getLayoutMetrics')->{cssContentSize};
    my $height = $most && $most < $size->{height} ? $most : $size->{height};
    my $png = $self->call('Page.captureScreenshot', format => 'png', captureBeyondViewport => JSON::PP::true,
        clip => {x => 0, y => 0, width => $size->{width}, height => $height, scale => 1})->{data};
    return write_file($file, decode_base64($png));
}

sub stop { my ($self) = @_; $self->{process}->stop('TERM') }

1;
