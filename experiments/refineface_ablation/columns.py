"""The columns of RefineFace's tables (Zhang et al. 2019), each given by its differences from the baseline."""

from __future__ import annotations

from experiments.columns import Column

OFF = ("network.str_levels=[]", "network.stc_levels=[]", "network.rfe=false", "network.fsm=false", "losses.sml_alpha=0")
STR, STC = "network.str_levels=[5, 6, 7]", "network.stc_levels=[2, 3, 4]"
RFE, SML, FSM = "network.rfe=true", "losses.sml_alpha=15", "network.fsm=true"
CONTROL, FULL = "control", "STR + STC + RFE + SML + FSM"
SEVERAL_SEEDS = (CONTROL, FULL)
MODULES, LEVELS_STR, LEVELS_STC = "Table 1: modules", "Table 2: levels of STR", "Table 4: levels of STC"
MARGIN, REGION, FORM = "Table 6: margin of SML", "Table 7: cells of FSM", "Table 8: form of FSM"
READINGS = "Two readings: STC's faces, SML's samples"
EVERY = (MODULES, LEVELS_STR, LEVELS_STC, MARGIN, REGION, FORM, READINGS)

COLUMNS = (
    Column(CONTROL, OFF, EVERY),
    Column("STR", (*OFF, STR), (MODULES,)),
    Column("STC", (*OFF, STC), (MODULES, READINGS)),
    Column("RFE", (*OFF, RFE), (MODULES,)),
    Column("SML", (*OFF, SML), (MODULES, MARGIN, READINGS)),
    Column("FSM", (*OFF, FSM), (MODULES, REGION, FORM)),
    Column("STR + STC", (*OFF, STR, STC), (MODULES,)),
    Column("STR + STC + RFE", (*OFF, STR, STC, RFE), (MODULES,)),
    Column("STR + STC + RFE + SML", (*OFF, STR, STC, RFE, SML), (MODULES,)),
    Column(FULL, (*OFF, STR, STC, RFE, SML, FSM), (MODULES,)),
    *(Column(f"STR on P{at}", (*OFF, f"network.str_levels=[{at}]"), (LEVELS_STR,)) for at in range(2, 8)),
    *(Column(f"STC on P{at}", (*OFF, f"network.stc_levels=[{at}]"), (LEVELS_STC,)) for at in range(2, 8)),
    *(Column(f"SML {alpha}", (*OFF, f"losses.sml_alpha={alpha}"), (MARGIN,)) for alpha in (3, 7, 11, 19, 23)),
    Column("SML, faces alone", (*OFF, SML, "losses.sml_samples=faces"), (READINGS,)),
    Column("STC, dropped faces not learnt", (*OFF, STC, "losses.stc_keep_faces=false"), (READINGS,)),
    *(Column(f"FSM {cells}x{cells}", (*OFF, FSM, f"network.fsm_roi={cells}"), (REGION,)) for cells in (3, 7)),
    Column("FSM fc", (*OFF, FSM, "network.fsm_form=fc"), (FORM,)),
)
