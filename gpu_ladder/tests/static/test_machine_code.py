"""Reading listings: instructions, PTX and names; none of it needs a compiler."""

from __future__ import annotations

import pytest

from gpu_ladder.static import machine_code, names, ptx_facts
from gpu_ladder.static.facts import PtxFacts

LISTING = """\
	.section	.nv.info,"",@"SHT_CUDA_INFO"
	.section	.text.first,"ax",@progbits
first:
.text.first:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR6][R6.64] ;
        /*0020*/             @!UPT UIADD3 URZ, URZ, URZ, URZ ;
        /*0030*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;
.L_x_0:
        /*0040*/                   BRA `(.L_x_0);
	.section	.text.second,"ax",@progbits
.text.second:
        /*10000*/                  STG.E.U16 desc[UR4][R2.64], R0 ;
"""


def test_functions_and_mnemonics_of_a_listing() -> None:
    assert list(machine_code.functions(LISTING)) == [
        ("first", ["LDC", "LDG.E.128.CONSTANT", "UIADD3", "HFMA2.MMA", "BRA"]),
        ("second", ["STG.E.U16"]),
    ]


@pytest.mark.parametrize(
    ("mnemonic", "field", "width"),
    [
        ("LDG.E", "global_loads", 4),
        ("LDG.E.64.CONSTANT", "global_loads", 8),
        ("LDG.E.EF.128", "global_loads", 16),
        ("LDG.E.LTC128B", "global_loads", 4),
        ("LDG.E.LTC128B.128.CONSTANT", "global_loads", 16),
        ("LDG.E.ENL2.256", "global_loads", 32),
        ("LDG.E.U16.STRONG.GPU", "global_loads", 2),
        ("LDG.E.S8", "global_loads", 1),
        ("STG.E.128", "global_stores", 16),
        ("STG.E.U8", "global_stores", 1),
        ("LDS.64", "shared_loads", 8),
        ("LDS.U.128", "shared_loads", 16),
        ("LDSM.16.M88.4", "shared_loads", 16),
        ("LDSM.16.MT88.2", "shared_loads", 8),
        ("LDSM.16.M88", "shared_loads", 4),
        ("STS.U16", "shared_stores", 2),
        ("STSM.16.M88.4", "shared_stores", 16),
    ],
)
def test_what_an_instruction_moves(mnemonic: str, field: str, width: int) -> None:
    code = machine_code.count([mnemonic, "IADD3", "FFMA", "RED.E.ADD.F32.FTZ.RN"])
    fields = ("global_loads", "global_stores", "shared_loads", "shared_stores")
    assert {name: getattr(code, name) for name in fields} == {
        name: {width: 1} if name == field else {} for name in fields
    }


def test_a_copy_to_shared_memory_is_a_load_and_a_store() -> None:
    code = machine_code.count(["LDGSTS.E.BYPASS.128"])
    assert code.global_loads == code.shared_stores == {16: 1}


def test_what_else_is_counted() -> None:
    code = machine_code.count(
        ["LD.E.128", "ST.E", "LDL.64", "STL", "STL", "HMMA.16816.F32.BF16", "UTCHMMA", "HGMMA.64x8",
         "HFMA2.MMA", "IMAD.MOV", "UBLKCP.S.G", "UTMALDG.2D", "LDC.64"]
    )  # fmt: skip
    assert (code.generic, code.local_loads, code.local_stores) == (2, 1, 2)
    assert (code.matrix, code.bulk_copies) == (3, 2)


PTX = """\
.extern .func (.param .b32 func_retval0) vprintf(.param .b64 a);
.func  (.param .b32 func_retval0) adds(
	.param .b32 adds_param_0
)
{
	red.global.add.f64 	[%rd1], %fd1;
}
.visible .entry first(
	.param .u64 first_param_0
)
.maxntid 32, 8, 1
{
	add.rn.f32 	%f1, %f2, %f3;
	red.global.add.f32 	[%rd1], %f1;
	atom.global.add.u32 	%r1, [%rd2], 1;
	atom.add.noftz.bf16x2 	%r1, [%rd2], %r3;
	redux.sync.add.s32 	%r1, %r2, -1;
	add.s64 	%rd1, %rd2, 4;
}
	// .globl	first
.entry second()
.reqntid 128
{
	mul.f32 	%f1, %f2, %f3;
	add.ftz.f32 	%f1, %f2, %f3;
	sub.bf16x2 	%r1, %r2, %r3;
	fma.rn.f32 	%f1, %f2, %f3, %f4;
	mul.wide.u32 	%rd1, %r1, 4;
	mul.lo.s32 	%r1, %r2, %r3;
}
.entry third() { ret; }
.visible .entry fourth()
{
	call.uni (retval0), adds, (param0);
	call.uni (retval0), vprintf, (param0);
}
"""


def test_what_ptx_says() -> None:
    assert ptx_facts.read(PTX) == {
        "first": PtxFacts(threads=256, float_atomics=2, integer_atomics=1, contractible=0),
        "second": PtxFacts(threads=128, float_atomics=0, integer_atomics=0, contractible=3),
        "third": PtxFacts(threads=None, float_atomics=0, integer_atomics=0, contractible=0),
        "fourth": PtxFacts(threads=None, float_atomics=1, integer_atomics=0, contractible=0),
    }
    assert ptx_facts.read("// host code alone\n") == {}


SOURCE = """\
template <class T, bool with_variance, bool aligned>
__global__ void __launch_bounds__(threads, 2)
    moments_kernel(const __grid_constant__ Matrix<T> matrix, int n) {}
template <typename T, int rows = 4> static __global__ void sum_kernel(T* out) {}
"""


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        ("void adak::cuda::moments_kernel<__nv_bfloat16, true, false>(adak::cuda::Matrix<"
         "__nv_bfloat16>, int)", "moments_kernel<bfloat16, with_variance>"),
        ("void moments_kernel<float, false, true>(Matrix<float>, int)",
         "moments_kernel<float32, aligned>"),
        ("void (anonymous namespace)::sum_kernel<__half, (int)8>(__half*)",
         "sum_kernel<float16, rows=8>"),
        ("void sum_kernel<adak::Pair<float, 2>, 4u>(adak::Pair<float, 2>*)",
         "sum_kernel<Pair<float, 2>, rows=4>"),
        ("void unknown_kernel<true, 3, double>(void (*)(int))", "unknown_kernel<true, 3, float64>"),
        ("adak::cuda::plain_kernel(double const*, long)", "plain_kernel"),
        ("c_kernel", "c_kernel"),
    ],
)  # fmt: skip
def test_short_names(demangled: str, short: str) -> None:
    parameters = names.template_parameters(SOURCE)
    assert parameters == {
        "moments_kernel": ["T", "with_variance", "aligned"],
        "sum_kernel": ["T", "rows"],
    }
    assert names.shorten(demangled, parameters) == short
