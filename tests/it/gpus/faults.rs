//! Whatever the driver does, placement is right, refusals are clear, and no GPU is given
//! to two (F20).

use std::collections::BTreeSet;

use container_svc::rpc::pb;
use serde_json::json;
use tonic::Code;

use super::{
    Stub,
    booked::{asked, has, one, request, run, service, stop},
    device, devices, text, uuid,
};
use crate::{
    faults::private_engine::Engine,
    support::{eventually, unique},
};

/// A device that is cut in two.
fn cut(index: usize) -> String {
    format!(
        "{}\ninstance uuid=MIG-a name=NVIDIA_A100_MIG_1g.5gb total=5368709120 used=0\n\
         instance uuid=MIG-b name=NVIDIA_A100_MIG_2g.10gb total=10737418240 used=0\n",
        device(index, 0, "mig=1")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_driver_does_no_gpu_is_given_twice_and_a_refusal_says_why() {
    let engine = Engine::with_gpus().await;
    let stub = Stub::new(&devices(8));
    let service = service(&engine, &stub).await;
    let mut given: Vec<String> = Vec::new();
    for _ in 0..3 {
        let name = unique("f20");
        run(&service, request(&service, &name, one())).await.expect("it runs");
        given.extend(has(&service, &name).await);
    }
    // A driver that was exchanged, that is gone, and that finds nothing.
    for (lines, words) in
        [("init code=18", "different versions"), ("init code=9", "modprobe"), ("", "no device")]
    {
        stub.says(lines);
        eventually(words, || async {
            text(&super::node(&service).await["reason"]).contains(words)
        })
        .await;
        let refused = run(&service, request(&service, &unique("f20"), one())).await;
        let refused = refused.expect_err("no GPU");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(words), "{words} in {refused:?}");
    }
    // One is lost, and one is cut: it is given by its parts, and never whole.
    let lines: String =
        (0..7).map(|at| device(at, 0, if at == 3 { "lost=15" } else { "" }) + "\n").collect();
    stub.says(&(lines + &cut(7)));
    eventually("the driver is back", || async { super::node(&service).await["count"] == 8 }).await;
    let part = unique("f20");
    let wish = pb::Gpus { mig_profile: "2g.10gb".into(), ..one() };
    run(&service, request(&service, &part, wish.clone())).await.expect("it runs");
    assert_eq!(has(&service, &part).await, ["MIG-b"]);
    let (requests, envs) = asked(&engine, &part);
    assert_eq!(requests[0]["DeviceIDs"], json!(["MIG-b"]));
    assert!(envs.contains(&"NVIDIA_VISIBLE_DEVICES=MIG-b".to_owned()), "{envs:?}");
    let (_, told) = service.get(&format!("/container-svc/container?name={part}")).await;
    assert_eq!(told["container"]["gpus"][0]["level"], "GPU_LEVEL_ENFORCED");

    let runs = (0..6).map(|_| unique("f20")).collect::<Vec<_>>();
    let all = runs.iter().map(|name| run(&service, request(&service, name, one())));
    let all = futures_util::future::join_all(all).await;
    for (name, answer) in runs.iter().zip(all) {
        match answer {
            Ok(_) => given.extend(has(&service, name).await),
            Err(refused) => {
                assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
                assert!(refused.message().contains("fell off the bus"), "{refused:?}");
            }
        }
    }
    let different: BTreeSet<_> = given.iter().collect();
    let whole: BTreeSet<_> = [0, 1, 2, 4, 5, 6].map(uuid).into();
    assert_eq!((different, given.len()), (whole.iter().collect(), 6));

    for (gpus, code, words) in [
        (wish, Code::ResourceExhausted, part.as_str()),
        (
            pb::Gpus { mig_profile: "3g.20gb".into(), ..one() },
            Code::InvalidArgument,
            "no instance is cut as 3g.20gb; the node has 1g.5gb, 2g.10gb",
        ),
        (
            pb::Gpus { mig_profile: "1g.5gb".into(), count: 2, ..one() },
            Code::InvalidArgument,
            "the node has 1",
        ),
        (
            pb::Gpus { exclusive: true, shared: true, ..one() },
            Code::InvalidArgument,
            "MIG-a (1g.5gb of GPU 7)",
        ),
        (pb::Gpus { count: 8, ..one() }, Code::InvalidArgument, "the node has 7"),
        (
            pb::Gpus { ids: vec!["GPU-none".into()], ..one() },
            Code::InvalidArgument,
            "MIG-a (1g.5gb of GPU 7)",
        ),
        (
            pb::Gpus { memory_mb: 99_999, ..one() },
            Code::InvalidArgument,
            "the largest has 15872 MiB",
        ),
    ] {
        let refused = run(&service, request(&service, &unique("f20"), gpus)).await;
        let refused = refused.expect_err("refused");
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(words), "{words} in {refused:?}");
    }
    stop(&service, &part).await;
    let told = super::gpus(&service).await;
    assert!(text(&told["gpus"][3]["error"]).contains("fell off"));
    drop(service);
    engine.end().await;
}
