//! Slots over time: adoption, sweeping, two daemons, many at once.

use dormouse_network::NetworkError;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::support::{listen, on_host, run};

#[test]
fn a_restarted_daemon_adopts_its_slots() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let name = slot.name().clone();
        let (server, address) = listen(slot.sandbox_netns(), "169.254.77.2:0");
        drop(slot);
        pool.close().await;
        drop(pool);

        let pool = host.pool().await;
        let slot = pool.adopt(&name).await.expect("adopted");
        assert_eq!(pool.sweep(&[]).await.expect("swept"), 0, "an adopted slot has an owner");
        let (client, accepted) = tokio::join!(slot.connect(address.port()), server.accept());
        client.expect("a connection");
        accepted.expect("a client");
        slot.set_internet(false).await.expect("an adopted slot obeys");

        let again = pool.adopt(&name).await.expect_err("one owner");
        assert!(matches!(again, NetworkError::InUse { .. }));
    });
}

#[test]
fn a_slot_that_is_gone_is_not_adopted() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let name = slot.name().clone();
        slot.release().await.expect("released");

        let error = pool.adopt(&name).await.expect_err("gone");

        assert!(matches!(error, NetworkError::NoSuchSlot { .. }));
    });
}

#[test]
fn sweeping_leaves_what_is_kept_and_removes_the_rest() {
    on_host(async |host| {
        let pool = host.pool().await;
        let held = pool.take().await.expect("a slot");
        let kept = pool.take().await.expect("a slot").name().clone();
        drop(pool.take().await.expect("a slot"));

        assert_eq!(pool.sweep(std::slice::from_ref(&kept)).await.expect("swept"), 1);
        assert_eq!(pool.sweep(std::slice::from_ref(&kept)).await.expect("swept"), 0);
        pool.adopt(&kept).await.expect("a kept slot is whole");
        assert!(
            held.connect(1)
                .await
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn a_killed_daemon_leaves_nothing_after_a_sweep() {
    on_host(async |host| {
        let mut config = host.config("data");
        config.ready = 0;
        let idle = host.open(config.clone()).await;
        let before = host.traces();
        // Not closed, as after kill -9: a slot in use, one whose namespaces were lost, one whose device was lost.
        let slots = [
            idle.take().await.expect("a slot"),
            idle.take().await.expect("a slot"),
            idle.take().await.expect("a slot"),
        ];
        run("ip", &format!("link del {}", uplink(slots[1].name().as_str())));
        for path in [slots[2].sandbox_netns(), slots[2].router_netns()] {
            umount2(path, MntFlags::MNT_DETACH).expect("unmounts");
            std::fs::remove_file(path).expect("removes");
        }
        drop(idle);
        std::mem::forget(slots);

        let pool = host.open(config).await;
        assert_eq!(pool.sweep(&[]).await.expect("swept"), 3);
        assert_eq!(pool.sweep(&[]).await.expect("swept"), 0);
        assert_eq!(host.traces(), before);
    });
}

fn uplink(slot: &str) -> String {
    let mut parts = slot.split('-');
    format!("{}x{}", parts.next().expect("a prefix"), parts.next().expect("an index"))
}

#[test]
fn a_reboot_leaves_files_that_are_swept() {
    on_host(async |host| {
        let mut config = host.config("data");
        config.ready = 0;
        let pool = host.open(config.clone()).await;
        let slot = pool.take().await.expect("a slot");
        let name = slot.name().clone();
        // A reboot takes devices and mounts away, but not files.
        run("ip", &format!("link del {}", uplink(name.as_str())));
        for path in [slot.sandbox_netns(), slot.router_netns()] {
            umount2(path, MntFlags::MNT_DETACH).expect("unmounts");
        }
        drop((slot, pool));

        let pool = host.open(config).await;
        let error = pool.adopt(&name).await.expect_err("nothing behind the files");

        assert!(matches!(error, NetworkError::NoSuchSlot { .. }));
        assert_eq!(pool.sweep(&[]).await.expect("swept"), 1);
        assert_eq!(std::fs::read_dir(host.run_dir().join("netns")).expect("handles").count(), 0);
    });
}

#[test]
fn a_released_slot_leaves_other_mount_namespaces_too() {
    on_host(async |host| {
        let pool = host.pool().await;
        let slot = pool.take().await.expect("a slot");
        let handle = slot.sandbox_netns().to_path_buf();
        // As engines do for their processes: a private copy of all mounts.
        let (ready, wait_ready) = tokio::sync::oneshot::channel();
        let (released, wait_released) = std::sync::mpsc::channel();
        let engine = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_SLAVE,
                None::<&str>,
            )
            .expect("private mounts");
            let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
            let mounted = || mounts().contains(handle.to_str().expect("text"));
            ready.send(mounted()).expect("the test waits");
            wait_released.recv().expect("the test says so");
            mounted()
        });
        assert!(wait_ready.await.expect("the thread says so"), "the copy has the handle");

        slot.release().await.expect("released");
        released.send(()).expect("the thread waits");

        assert!(!engine.join().expect("no panic"), "the copy lost the handle");
    });
}

#[test]
fn releasing_and_uninstalling_leave_no_trace() {
    on_host(async |host| {
        let before = host.traces();
        let pool = host.pool().await;
        let installed = pool.take().await.expect("a slot");
        let released = pool.take().await.expect("a slot");
        released.release().await.expect("released");
        pool.uninstall().await.expect("uninstalled");

        assert_eq!(host.traces(), before);
        drop(installed);
    });
}

#[test]
fn a_pool_closed_without_slots_leaves_no_trace() {
    on_host(async |host| {
        let before = host.traces();
        let pool = host.pool().await;
        pool.take().await.expect("a slot").release().await.expect("released");
        pool.close().await;

        assert_eq!(host.traces(), before);
    });
}

#[test]
fn uninstalling_without_any_slot_left_works() {
    on_host(async |host| {
        let before = host.traces();
        let pool = host.pool().await;
        pool.take().await.expect("a slot").release().await.expect("released");
        pool.uninstall().await.expect("uninstalled");
        pool.uninstall().await.expect("uninstalled twice");

        assert_eq!(host.traces(), before);
    });
}

#[test]
fn what_belongs_to_a_deleted_data_directory_is_taken_back() {
    on_host(async |host| {
        let before = host.traces();
        let data = host.dir().join("dead");
        std::fs::create_dir_all(&data).expect("a data directory");
        std::fs::write(data.join("database"), b"").expect("a file");
        let mut config = host.config("dead");
        config.ready = 0;
        config.run_dir = data.join("run");
        let dead = host.open(config).await;
        let slot = dead.take().await.expect("a slot");
        drop(slot);
        dead.close().await;
        drop(dead);

        let come_and_go = async || {
            let mut config = host.config("later");
            config.ready = 0;
            host.open(config).await.uninstall().await.expect("uninstalled");
        };
        come_and_go().await;
        assert_ne!(host.traces(), before, "it may start again: its directory is there");

        std::fs::remove_file(data.join("database")).expect("removed");
        // In this process tasks of the dead one may hold its lock for a moment; a process takes them along.
        for _ in 0..100 {
            come_and_go().await;
            if !data.exists() {
                break;
            }
        }
        assert_eq!(host.traces(), before);
        assert!(!data.exists(), "mounts are what kept it");
    });
}

#[test]
fn a_closed_pool_keeps_taken_slots_only() {
    on_host(async |host| {
        let pool = host.pool().await;
        let taken = pool.take().await.expect("a slot");
        pool.close().await;

        let files = std::fs::read_dir(host.run_dir().join("netns")).expect("handles").count();
        assert_eq!(files, 2, "the two namespaces of the taken slot");
        assert!(
            taken
                .connect(1)
                .await
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        assert!(matches!(pool.take().await, Err(NetworkError::Closed)));
    });
}

#[test]
fn two_daemons_do_not_disturb_each_other() {
    on_host(async |host| {
        let mut config = host.config("one");
        config.ready = 0;
        let one = host.open(config).await;
        let ours = one.take().await.expect("a slot");
        let before = host.traces();
        let two = host.open(host.config("two")).await;
        let theirs = two.take().await.expect("a slot");

        assert!(matches!(two.adopt(ours.name()).await, Err(NetworkError::BadSlotName { .. })));
        assert_eq!(two.sweep(&[]).await.expect("swept"), 0);
        theirs.release().await.expect("released");
        two.uninstall().await.expect("uninstalled");

        assert_eq!(host.traces(), before);
        assert!(
            ours.connect(1)
                .await
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn sixteen_slots_are_taken_at_once() {
    on_host(async |host| {
        let pool = host.pool().await;

        let slots = futures::future::join_all((0..16).map(|_| pool.take())).await;

        let slots: Vec<_> = slots.into_iter().map(|slot| slot.expect("a slot")).collect();
        let mut names: Vec<_> = slots.iter().map(|slot| slot.name().as_str().to_owned()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 16);
        for slot in &slots {
            let (server, address) = listen(slot.sandbox_netns(), "169.254.77.2:0");
            let (client, accepted) = tokio::join!(slot.connect(address.port()), server.accept());
            client.expect("a connection");
            accepted.expect("a client");
        }
    });
}

#[test]
fn a_caller_that_goes_away_wastes_no_slot() {
    on_host(async |host| {
        let mut config = host.config("data");
        config.ready = 0;
        let pool = host.open(config).await;
        {
            let mut taking = Box::pin(pool.take());
            // Polled once, so that the work begins, and dropped.
            assert!(futures::poll!(taking.as_mut()).is_pending());
        }

        let slot = pool.take().await.expect("a slot");
        slot.release().await.expect("released");
        pool.close().await;

        assert!(!host.run_dir().join("netns").exists(), "removed when it is empty");
    });
}
