[000h 0000   4]                    Signature : "SRAT"    [System Resource Affinity Table]
[004h 0004   4]                 Table Length : 00000168
[008h 0008   1]                     Revision : 03
[009h 0009   1]                     Checksum : 4C
[00Ah 0010   6]                       Oem ID : "NUMAVI"
[010h 0016   8]                 Oem Table ID : "NUMAVSOR"
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "RVAT"
[020h 0032   4]        Asl Compiler Revision : 01000000

[024h 0036   4]               Table Revision : 00000001
[028h 0040   8]                     Reserved : 0000000000000000

[030h 0048   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[031h 0049   1]                       Length : 10

[032h 0050   1]      Proximity Domain Low(8) : 00
[033h 0051   1]                      Apic ID : 00
[034h 0052   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[038h 0056   1]              Local Sapic EID : 00
[039h 0057   3]    Proximity Domain High(24) : 000000
[03Ch 0060   4]                 Clock Domain : 00000000

[040h 0064   1]                Subtable Type : 01 [Memory Affinity]
[041h 0065   1]                       Length : 28

[042h 0066   4]             Proximity Domain : 00000000
[046h 0070   2]                    Reserved1 : 0000
[048h 0072   8]                 Base Address : 0000000000000000
[050h 0080   8]               Address Length : 0000000010000000
[058h 0088   4]                    Reserved2 : 00000000
[05Ch 0092   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[060h 0096   8]                    Reserved3 : 0000000000000000

[068h 0104   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[069h 0105   1]                       Length : 10

[06Ah 0106   1]      Proximity Domain Low(8) : 01
[06Bh 0107   1]                      Apic ID : 01
[06Ch 0108   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[070h 0112   1]              Local Sapic EID : 00
[071h 0113   3]    Proximity Domain High(24) : 000000
[074h 0116   4]                 Clock Domain : 00000000

[078h 0120   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[079h 0121   1]                       Length : 10

[07Ah 0122   1]      Proximity Domain Low(8) : 01
[07Bh 0123   1]                      Apic ID : 02
[07Ch 0124   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[080h 0128   1]              Local Sapic EID : 00
[081h 0129   3]    Proximity Domain High(24) : 000000
[084h 0132   4]                 Clock Domain : 00000000

[088h 0136   1]                Subtable Type : 01 [Memory Affinity]
[089h 0137   1]                       Length : 28

[08Ah 0138   4]             Proximity Domain : 00000001
[08Eh 0142   2]                    Reserved1 : 0000
[090h 0144   8]                 Base Address : 0000000010000000
[098h 0152   8]               Address Length : 0000000040000000
[0A0h 0160   4]                    Reserved2 : 00000000
[0A4h 0164   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[0A8h 0168   8]                    Reserved3 : 0000000000000000

[0B0h 0176   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0B1h 0177   1]                       Length : 10

[0B2h 0178   1]      Proximity Domain Low(8) : 02
[0B3h 0179   1]                      Apic ID : 03
[0B4h 0180   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0B8h 0184   1]              Local Sapic EID : 00
[0B9h 0185   3]    Proximity Domain High(24) : 000000
[0BCh 0188   4]                 Clock Domain : 00000000

[0C0h 0192   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0C1h 0193   1]                       Length : 10

[0C2h 0194   1]      Proximity Domain Low(8) : 02
[0C3h 0195   1]                      Apic ID : 04
[0C4h 0196   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0C8h 0200   1]              Local Sapic EID : 00
[0C9h 0201   3]    Proximity Domain High(24) : 000000
[0CCh 0204   4]                 Clock Domain : 00000000

[0D0h 0208   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0D1h 0209   1]                       Length : 10

[0D2h 0210   1]      Proximity Domain Low(8) : 02
[0D3h 0211   1]                      Apic ID : 05
[0D4h 0212   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0D8h 0216   1]              Local Sapic EID : 00
[0D9h 0217   3]    Proximity Domain High(24) : 000000
[0DCh 0220   4]                 Clock Domain : 00000000

[0E0h 0224   1]                Subtable Type : 01 [Memory Affinity]
[0E1h 0225   1]                       Length : 28

[0E2h 0226   4]             Proximity Domain : 00000002
[0E6h 0230   2]                    Reserved1 : 0000
[0E8h 0232   8]                 Base Address : 0000000050000000
[0F0h 0240   8]               Address Length : 0000000008000000
[0F8h 0248   4]                    Reserved2 : 00000000
[0FCh 0252   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[100h 0256   8]                    Reserved3 : 0000000000000000

[108h 0264   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[109h 0265   1]                       Length : 10

[10Ah 0266   1]      Proximity Domain Low(8) : 03
[10Bh 0267   1]                      Apic ID : 06
[10Ch 0268   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[110h 0272   1]              Local Sapic EID : 00
[111h 0273   3]    Proximity Domain High(24) : 000000
[114h 0276   4]                 Clock Domain : 00000000

[118h 0280   1]                Subtable Type : 01 [Memory Affinity]
[119h 0281   1]                       Length : 28

[11Ah 0282   4]             Proximity Domain : 00000003
[11Eh 0286   2]                    Reserved1 : 0000
[120h 0288   8]                 Base Address : 0000000058000000
[128h 0296   8]               Address Length : 0000000068000000
[130h 0304   4]                    Reserved2 : 00000000
[134h 0308   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[138h 0312   8]                    Reserved3 : 0000000000000000

[140h 0320   1]                Subtable Type : 01 [Memory Affinity]
[141h 0321   1]                       Length : 28

[142h 0322   4]             Proximity Domain : 00000003
[146h 0326   2]                    Reserved1 : 0000
[148h 0328   8]                 Base Address : 0000000100000000
[150h 0336   8]               Address Length : 0000000098000000
[158h 0344   4]                    Reserved2 : 00000000
[15Ch 0348   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[160h 0352   8]                    Reserved3 : 0000000000000000
