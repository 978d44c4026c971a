//! What shall build, and whether its caller may have what the build asks for.

use crate::{
    app::App,
    domain::{
        Error, Result,
        access::{BUILD_PRIVILEGED, Caller},
        build::{BuildSpec, Builder},
        dockerfile::{self, Frontend, SYNTAX_ARG, frontend, needs_buildkit},
    },
};

/// What was decided for a build.
#[derive(Debug)]
pub(super) struct Chosen {
    /// What builds.
    pub(super) builder: Builder,
    /// The frontend that BuildKit will run, as an image.
    pub(super) frontend: Option<String>,
}

impl App {
    /// What shall build by the engine that is there, or why it cannot.
    pub(super) async fn choose(
        &self,
        spec: &BuildSpec,
        text: &str,
        caller: &Caller,
    ) -> Result<Chosen> {
        let has = spec.builder != Some(Builder::Classic) && self.engine.has_buildkit().await?;
        choose(spec, text, caller, has)
    }
}

/// BuildKit where the engine has it, else the classic builder, unless one is asked for or
/// nothing but BuildKit will do.
///
/// A frontend is an image that BuildKit runs with powers of its own, so it is not for
/// everybody. The classic builder takes the line for a comment, as it always did, and so
/// builds for who may not, if it can.
fn choose(spec: &BuildSpec, text: &str, caller: &Caller, has: bool) -> Result<Chosen> {
    let cannot = |why: &str| Err(Error::precondition("BUILDER_CANNOT", why));
    let may = caller.may(BUILD_PRIVILEGED);
    let in_arg = spec.args.get(SYNTAX_ARG);
    let in_file = frontend(text);
    let comment = in_file.is_some() && !may && !needs_buildkit(&dockerfile::instructions(text));
    let builder = match spec.builder {
        Some(Builder::Classic) if !spec.secrets.is_empty() => {
            return cannot("secrets need BuildKit; leave builder out");
        }
        Some(builder) => builder,
        None if needs_it(spec).is_some() => Builder::BuildKit,
        None if !has || comment => Builder::Classic,
        None => Builder::BuildKit,
    };
    if builder == Builder::Classic {
        return Ok(Chosen { builder, frontend: None });
    }
    if let Some(found) = in_file.as_ref().filter(|_| !may) {
        return Err(refused_line(caller, found));
    }
    if !has {
        let what = needs_it(spec).unwrap_or("the field builder");
        return cannot(&format!(
            "this engine has no BuildKit, which {what} asks for; leave it out"
        ));
    }
    let asked = in_arg.cloned().or(in_file.map(|found| found.asked));
    let frontend = asked.and_then(|asked| asked.split_whitespace().next().map(str::to_owned));
    Ok(Chosen { builder, frontend })
}

/// What of a request only BuildKit does.
fn needs_it(spec: &BuildSpec) -> Option<&'static str> {
    if !spec.secrets.is_empty() {
        Some("the field secrets")
    } else if !spec.entitlements.is_empty() {
        Some("the field entitlements")
    } else {
        spec.args.contains_key(SYNTAX_ARG).then_some("the build argument BUILDKIT_SYNTAX")
    }
}

/// Refuses entitlements, and a frontend in an argument, to who may not have them, and
/// entitlements to the classic builder, which has none.
pub(super) fn entitle(spec: &BuildSpec, caller: &Caller) -> Result<()> {
    if let Some(image) = spec.args.get(SYNTAX_ARG)
        && spec.builder != Some(Builder::Classic)
        && !caller.may(BUILD_PRIVILEGED)
    {
        return Err(refused_arg(caller, image));
    }
    let cannot = |why: &str| Err(Error::precondition("BUILDER_CANNOT", why));
    let Some(first) = spec.entitlements.first() else { return Ok(()) };
    if !caller.may(BUILD_PRIVILEGED) {
        let asks = format!("{first} in the field entitlements");
        let error = caller.lacks(BUILD_PRIVILEGED, Some((&asks, "leave it out")));
        return Err(error.with("field", "entitlements"));
    }
    if spec.builder == Some(Builder::Classic) {
        return cannot("entitlements need BuildKit; leave builder out");
    }
    Ok(())
}

fn refused_arg(caller: &Caller, image: &str) -> Error {
    let asks = format!("the build argument {SYNTAX_ARG} for its frontend {image:?}");
    let error = caller.lacks(BUILD_PRIVILEGED, Some((&asks, "leave the argument out")));
    error.with("field", "buildArgs")
}

fn refused_line(caller: &Caller, found: &Frontend) -> Error {
    let Frontend { line, asked } = found;
    let asks = format!("line {line} of the Dockerfile for its frontend {asked:?}");
    let instead =
        "take the line out, or let the classic builder build, which takes it for a comment";
    let error = caller.lacks(BUILD_PRIVILEGED, Some((&asks, instead)));
    error.with("line", line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Kind, build::BuildRequest, source::Rules};

    fn chosen(file: &str, arg: bool, builder: Option<Builder>, may: bool) -> Result<Chosen> {
        on_engine(file, arg, builder, may, true)
    }

    fn on_engine(
        file: &str,
        arg: bool,
        builder: Option<Builder>,
        may: bool,
        has: bool,
    ) -> Result<Chosen> {
        let request = BuildRequest {
            name: "a".into(),
            context_path: "/a".into(),
            args: arg.then(|| (SYNTAX_ARG.to_owned(), "x/y z".to_owned())).into_iter().collect(),
            builder,
            ..Default::default()
        };
        let spec = BuildSpec::resolve(request, &Rules::default()).unwrap();
        let build = "container-svc:image:build".to_owned();
        let also = may.then(|| BUILD_PRIVILEGED.to_owned());
        let permissions = [build].into_iter().chain(also).collect();
        let caller = Caller { name: "who".into(), permissions };
        entitle(&spec, &caller)?;
        choose(&spec, file, &caller, has)
    }

    #[test]
    fn a_frontend_is_for_those_who_may_and_a_comment_for_the_classic_builder() {
        const LINE: &str = "# syntax=x/y z\nFROM a\n";
        let mount = format!("{LINE}RUN --mount=type=tmpfs,target=/a b\n");
        let (classic, kit) = (Some(Builder::Classic), Some(Builder::BuildKit));
        // Who may not, of each way: it is refused, or built without one.
        for (file, arg, builder, refused) in [
            (LINE, false, None, false),
            (LINE, false, classic, false),
            ("FROM a", true, classic, false),
            (LINE, false, kit, true),
            (&mount, false, None, true),
            ("FROM a", true, None, true),
            ("FROM a", true, kit, true),
            ("{\"syntax\":\"x/y\"}", false, kit, true),
        ] {
            let told = chosen(file, arg, builder, false);
            match &told {
                Ok(chosen) => {
                    assert_eq!((chosen.builder, &chosen.frontend), (Builder::Classic, &None));
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::PermissionDenied);
                    assert!(error.message().contains(BUILD_PRIVILEGED), "{error}");
                    let names = ["line 1 of the Dockerfile", "build argument BUILDKIT_SYNTAX"];
                    assert!(error.message().contains(names[usize::from(arg)]), "{error}");
                }
            }
            assert_eq!(told.is_err(), refused, "{file} {arg} {builder:?}");
            let may = chosen(file, arg, builder, true).unwrap();
            let expected = match builder {
                Some(Builder::Classic) => (Builder::Classic, None),
                _ => (Builder::BuildKit, Some("x/y".to_owned())),
            };
            assert_eq!((may.builder, may.frontend), expected, "{file} {arg} {builder:?}");
        }
    }

    #[test]
    fn buildkit_builds_where_the_engine_has_it_and_nothing_is_asked_for() {
        const LINE: &str = "# syntax=x/y\nFROM a\n";
        const MOUNT: &str = "FROM a\nRUN --mount=type=tmpfs,target=/a b\n";
        let (classic, kit) = (Some(Builder::Classic), Some(Builder::BuildKit));
        for may in [true, false] {
            for file in ["FROM a", MOUNT] {
                for (builder, has, expected) in [
                    (None, true, kit),
                    (None, false, classic),
                    (classic, true, classic),
                    (classic, false, classic),
                    (kit, true, kit),
                    (kit, false, None),
                ] {
                    let told = on_engine(file, false, builder, may, has);
                    let told = told.map(|chosen| chosen.builder);
                    assert_eq!(told.as_ref().ok(), expected.as_ref(), "{file} {builder:?} {has}");
                    if let Err(error) = told {
                        assert_eq!(error.reason(), "BUILDER_CANNOT");
                        assert!(error.message().contains("has no BuildKit"), "{error}");
                    }
                }
            }
            let line = on_engine(LINE, false, None, may, false).unwrap();
            assert_eq!((line.builder, line.frontend), (Builder::Classic, None));
        }
        let error = on_engine("FROM a", true, None, true, false).unwrap_err();
        assert!(error.message().contains("BUILDKIT_SYNTAX"), "{error}");
    }
}
