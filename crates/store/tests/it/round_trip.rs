//! Any sandbox comes back as it was saved.

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse_engine::{InstanceId, Resources};
use dormouse_store::{
    BuildId, NetworkConfig, OnTimeout, SandboxId, SandboxRecord, SandboxState, SnapshotId, Store, TeamId, TemplateId,
};
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn duration() -> impl Strategy<Value = Duration> {
    (0..=i64::MAX.unsigned_abs()).prop_map(Duration::from_nanos)
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0_i64..=253_402_207_200, 0_i32..1_000_000_000).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).expect("in range"))
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(any::<String>(), any::<String>(), 0..4)
}

fn network() -> impl Strategy<Value = NetworkConfig> {
    (
        option::of(any::<bool>()),
        option::of(vec(any::<String>(), 0..3)),
        option::of(vec(any::<String>(), 0..3)),
        option::of(any::<String>()),
    )
        .prop_map(
            |(allow_public_traffic, allow_out, deny_out, mask_request_host)| NetworkConfig {
                allow_public_traffic,
                allow_out,
                deny_out,
                mask_request_host,
                dns_servers: Some(vec!["9.9.9.9".to_owned()]),
            },
        )
}

prop_compose! {
    fn record()(
        alias in option::of(any::<String>()),
        paused in any::<bool>(),
        instance in any::<bool>(),
        snapshot in any::<bool>(),
        times in (time(), time(), time()),
        timeout in option::of(duration()),
        max_run in duration(),
        kill in any::<bool>(),
        auto_resume in any::<bool>(),
        tokens in (option::of(any::<String>()), option::of(any::<String>())),
        allow_internet in option::of(any::<bool>()),
        network in option::of(network()),
        maps in (map(), map()),
        size in any::<[u32; 4]>(),
    ) -> SandboxRecord {
        SandboxRecord {
            id: SandboxId::random(),
            team: TeamId::random(),
            template: TemplateId::random(),
            alias,
            build: BuildId::random(),
            state: if paused { SandboxState::Paused } else { SandboxState::Running },
            instance: instance.then(InstanceId::random),
            snapshot: snapshot.then(SnapshotId::random),
            created_at: times.0,
            started_at: times.1,
            end_at: times.2,
            timeout,
            max_run,
            on_timeout: if kill { OnTimeout::Kill } else { OnTimeout::Pause },
            auto_resume,
            access_token: tokens.0,
            traffic_token: tokens.1,
            allow_internet,
            network,
            metadata: maps.0,
            env: maps.1,
            resources: Resources { vcpus: size[0], memory_mib: size[1], disk_mib: size[2], pids: size[3] },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sandbox_comes_back_as_it_was(sandbox in record()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::in_memory().await.unwrap();
            store.save(&sandbox, &[]).await.unwrap();
            prop_assert_eq!(store.sandboxes().await.unwrap(), vec![sandbox.clone()]);
            Ok(())
        })?;
    }
}
