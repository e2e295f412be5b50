# oar-lxc stanza: stands in front of the site's unchanged job resource manager, in the file that
# JOB_RESOURCE_MANAGER_FILE names. `oar-lxc setup server` puts the two together.
#
# OAR's server sends that file to every node of a job, as `perl - init` before the job and
# `perl - clean` after it, followed by a Perl hash that describes the job. The stanza reads the hash,
# looks at the job's types, and gives the same text back on STDIN to the site's part below it.
# For jobs of type lxc, the node is prepared after the site's init, whose cgroups must exist, and
# destroyed before the site's clean, which could not remove cgroups nested in the job's.
{
    package OarLxc;
    use strict;
    use warnings;
    our ( @command, @files, $failed, $nothing );

    # Set-up puts ids.users of the server's configuration here.
    my $users = '';

    # As fork, for some seconds. Perl's system would go on trying without end.
    sub patient_fork {
        my $pid = fork;
        for ( 1 .. 5 ) {
            last if defined $pid;
            select( undef, undef, undef, 1 );
            $pid = fork;
        }
        return $pid;
    }

    sub run {
        my @argv = ( 'oardodo', '/usr/sbin/oar-lxc-node', @_ );

        # A node without oar-lxc is no broken node: the job is told when it asks for containers.
        return 0 unless -x $argv[1];

        # One that was killed is run again: it goes on where it was.
        for ( 1 .. 2 ) {
            my $pid = patient_fork();
            if ( not defined $pid ) {

                # No more processes or memory, which users can use up: the node is not at fault. The
                # job is told when it asks for containers.
                print STDERR "oar-lxc: $argv[0]: $!\n";
                return $_[0] eq 'prepare' ? 0 : 127;
            }
            if ( $pid == 0 ) {
                no warnings 'exec';
                exec { $argv[0] } @argv;
                require POSIX;
                POSIX::_exit(127);
            }
            waitpid( $pid, 0 );
            return 0 if $? == 0;
            return $? >> 8  if $? >> 8 and $? >> 8 < 128;
        }
        return 1;
    }

    # Whether cgroups are nested in OAR's of the job, which the site's clean could not remove.
    sub nested {
        my ($job) = @_;
        return defined $job->{cpuset_path}
          && grep { -d } glob("/dev/oar_cgroups_links/*$job->{cpuset_path}/$job->{name}/lxc");
    }

    # What is to be done for a job of type lxc.
    sub serve {
        my ( $action, $job ) = @_;
        my @common = ( '--job', $job->{job_id}, '--user', $job->{user} );
        push @common, '--cgroup', "$job->{cpuset_path}/$job->{name}"
          if defined $job->{cpuset_path} and $job->{cpuset_path} ne '';
        if ( $action eq 'init' ) {
            my $key = $job->{ssh_keys}{private};

            # Without a cpuset, OAR's init forgets the keys of all other jobs unless this exists.
            system( 'oardodo', 'mkdir', '-p', '/dev/cpuset/undef' )
              if not length( $job->{cpuset_path} // '' ) and length( $key->{key} // '' );
            my @prepare = (
                'prepare', @common, '--node', $ENV{TAKTUK_HOSTNAME},
                '--nodes', join( ',', sort keys %{ $job->{nodes} } )
            );
            push @prepare, '--users', $users if length $users;
            push @prepare, '--job-key', $key->{file_name}
              if defined $key->{key} and $key->{key} ne '';
            @command = @prepare;
        }
        elsif ( $action eq 'clean' ) {
            $failed = run( 'destroy', @common, '--layer', 'stanza' );

            # The site's clean would wait for them without end.
            exit 3 if $failed == 3 or ( $failed and nested($job) );

            # OAR's own, which stay where it had to kill its oarexec, or its clean fails after a boot.
            my ( $tmp, $id ) = @{$job}{ 'oar_tmp_directory', 'job_id' };
            @files = map { "$tmp/$_" }
              ( "pid_of_oarexec_for_jobId_$id", $id, "${id}_resources", "$job->{name}.env" )
              if defined $tmp and defined $job->{name};
        }
    }

    my $text = do { local $/; <STDIN> };
    if ( defined($text) ) {

        # In memory: a user can fill the disk, and OAR must get to work all the same. What programs
        # have for their input, descriptor 0, is empty, as it would be.
        close(STDIN);
        open( $nothing, '<', '/dev/null' );
        open( STDIN,    '<', \$text ) or die "oar-lxc: cannot give STDIN back: $!\n";

        # Most jobs do not even name the type: they pay for one look at the text.
        if ( $text =~ /['"]?lxc['"]?\s*=>/ ) {
            my $job = eval $text;
            if (    ref($job) eq 'HASH'
                and ref( $job->{types} ) eq 'HASH'
                and exists $job->{types}{lxc} )
            {
                # Whatever is wrong with the description, the site's part has to see it.
                if ( not eval { serve( $ARGV[0], $job ); 1 } ) {
                    print STDERR "oar-lxc: the description of the job: $@";
                    $failed = 1;
                }
            }
        }
    }

    END {
        unlink @files;
        if ( $? == 0 ) {
            $? = $failed if $failed;
            $? = run(@command) if @command;
        }
    }
}
