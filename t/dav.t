# WebDAV of nginx itself (`dav_methods`): changes of files are made once.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(await);

my $nginx = IdempotencyTest::Nginx->new(workers => 1, log_format => '$request_method $request_uri $status [$idempotency_status]');
my $directory = $nginx->directory;
mkdir "$directory/$_" or die "mkdir: $!\n" for qw(files files/on files/off);
$nginx->set(server => <<"END")->start;
        root $directory/files;
        client_body_buffer_size 4k;
        client_body_temp_path $directory/files/temporary;
        dav_methods PUT DELETE MKCOL COPY MOVE;
        idempotency main;
        idempotency_methods PUT DELETE MKCOL COPY MOVE;
        location /on/ { }
        location /off/ { idempotency_fingerprint "\$request_method \$request_uri" body=off; }
END

my $n = 0;

sub ask {
    my ($method, $path, $key, %request) = @_;
    $request{headers} = ['X-API-Key: alice', @{$request{headers} || []}];
    return $nginx->request(method => $method, path => $path, key => $key, %request);
}

sub content { return slurp("$directory/files$_[0]") }

for my $where (qw(on off)) {
    # a body in memory, in a file, an empty one, a chunked one
    my %body = (small => [body => 'small'], large => [body => 'large' x 10_000], empty => [body => ''],
        chunks => [chunks => ['one', 'two' x 5000]]);

    for my $name (sort keys %body) {
        my $path = "/$where/$name";
        my $content = join '', map { ref $_ ? @$_ : $_ } $body{$name}[1] // '';

        my $first = ask('PUT', $path, ++$n, @{$body{$name}});
        is $first->status, 201, "a file is put ($path)";
        like $first->header('Location'), qr{\Q$path\E$}, "with a Location ($path)";
        ok content($path) eq $content, "and the file exists ($path)";

        unlink "$directory/files$path";
        my $retry = ask('PUT', $path, $n, @{$body{$name}});
        ok $retry->is_replay && $retry->lasting eq $first->lasting, "its retry is replayed ($path)" or diag $first->head, $retry->head;
        ok !-e "$directory/files$path", "and writes no file ($path)";
        is ask('PUT', $path, $n, body => 'another')->code, $where eq 'on' ? 'idempotency_key_reused' : '', "another body ($path)";

        ask('PUT', $path, ++$n, @{$body{$name}});
        $first = ask('PUT', $path, ++$n, @{$body{$name}});
        is $first->status, 204, "a file is put again ($path)";
        ok ask('PUT', $path, $n, @{$body{$name}})->is_replay, "its retry is replayed ($path)";
    }

    for my $case (['MKCOL', "/$where/made/", 201], ['COPY', "/$where/small", 204, "/$where/copy"], ['MOVE', "/$where/small", 204, "/$where/moved"],
        ['DELETE', "/$where/moved", 204], ['DELETE', "/$where/nothing", 404])
    {
        my ($method, $path, $status, $to) = @$case;
        my @headers = $to ? (headers => ["Destination: http://localhost$to"]) : ();
        my ($first, $retry) = map { ask($method, $path, "$where$method$path", @headers) } 0, 1;
        is $first->status, $status, "$method ($path)";
        ok $retry->is_replay && $retry->lasting eq $first->lasting, "its retry is replayed ($method, $path)" or diag $retry->head;
    }
}

# nginx writes the body into a temporary file, which is removed.
is_deeply [grep { -f } glob "$directory/files/temporary/*"], [], 'no file is left behind';

# The connection is still usable.
{
    my $client = $nginx->connect;
    my @statuses;
    for my $key (qw(a a b)) {
        push @statuses, $client->send(method => 'PUT', path => '/on/again', key => "again-$key", body => 'body', headers => ['X-API-Key: alice'])
            ->response->status;
    }
    is "@statuses", '201 201 204', 'several requests use one connection one after the other';
}

# Over HTTP/2 the HEADERS frame of such a response has END_STREAM.
{
    my $h2 = "$directory/h2.sock";
    $nginx->set(server => "listen unix:$h2 http2; $nginx->{server}")->reload;
    my @codes = map { qx{curl -sS -m 10 --http2-prior-knowledge --unix-socket $h2 -T $directory/nginx.conf -H 'X-API-Key: alice' -H 'Idempotency-Key: h2' \\
        -o /dev/null -w '%{http_code}' http://localhost/on/h2} } 0, 1;
    is "@codes", '201 201', 'a file is put over HTTP/2 once';
    ok content('/on/h2') eq content('/../nginx.conf'), 'whole';
}

# A client that disconnects during its upload puts no file, and its key still works.
for my $where (qw(on off)) {
    my $client = $nginx->connect->send_raw(join("\r\n", "PUT /$where/left HTTP/1.1", 'Host: localhost', 'X-API-Key: alice', "Idempotency-Key: left-$where",
        'Content-Length: 10', '', 'half '), 'PUT');
    $client->close;
    my $retry;
    ok await(sub { $retry = ask('PUT', "/$where/left", "left-$where", body => 'half whole'); $retry->status == 201 }), "a client that disconnected during its upload puts the file again ($where)";
    is content("/$where/left"), 'half whole', "the file is complete ($where)";
}

$nginx->stop;
done_testing;
